"""A snapshot as a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.testing.examples import example_snapshot


@given(st.binary(max_size=50), st.binary(max_size=50), st.integers(1, 60))
def test_the_pieces_are_the_file(manifest: bytes, payload: bytes, piece: int) -> None:
    snapshot = Snapshot(manifest, memoryview(payload))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optuna_esgd.engine.snapshot._PIECE_BYTES", piece)
        pieces = list(snapshot.cut_file())
    assert b"".join(pieces) == len(manifest).to_bytes(8, "little") + manifest + payload
    assert sum(map(len, pieces)) == snapshot.file_bytes
    assert all(0 < len(one) <= piece for one in pieces[1:])


def test_the_file_is_a_safetensors_file() -> None:
    assert load(b"".join(example_snapshot("x").cut_file()))
