"""Cutting, naming and checking, as pure functions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.errors import ConfigurationError, CorruptionError
from optuna_esgd.store.chunks import (
    CHUNK_BYTES,
    Link,
    check_chunk,
    check_listing,
    digest_of,
    pack,
    payload_size,
    snapshot_digest,
)


def _manifest(*sizes: int) -> bytes:
    header: dict[str, object] = {"__metadata__": {"a": "b"}}
    start = 0
    for number, size in enumerate(sizes):
        header[f"tensor {number}"] = {
            "dtype": "U8",
            "shape": [size],
            "data_offsets": [start, start + size],
        }
        start += size
    return json.dumps(header).encode() + b"   "


@given(st.lists(st.integers(0, 2**40), max_size=5))
def test_size_is_read_from_the_manifest(sizes: list[int]) -> None:
    assert payload_size(_manifest(*sizes)) == sum(sizes)


@given(st.binary(max_size=100))
def test_any_bytes_may_be_called_a_manifest(manifest: bytes) -> None:
    """It is refused, not believed, and nothing else happens."""
    assert payload_size(manifest) >= -1


@pytest.mark.parametrize("manifest", [b"", b"[]", b"3", b'{"a": 3}', b'{"a": {}}', b"[" * 10**5])
def test_no_manifest_at_all(manifest: bytes) -> None:
    assert payload_size(manifest) == -1
    with pytest.raises(ConfigurationError, match="manifest"):
        pack(Snapshot(manifest, b""))


@given(st.binary(max_size=300))
def test_pieces_make_the_whole(payload: bytes) -> None:
    packed = pack(Snapshot(_manifest(len(payload)), payload))
    assert b"".join(bytes(chunk.payload) for chunk in packed.chunks) == payload
    check_listing("x", packed.listing)


def test_chunks_are_cut_at_a_mebibyte() -> None:
    n_bytes = 2 * CHUNK_BYTES + 3
    packed = pack(Snapshot(_manifest(n_bytes), bytearray(n_bytes)))
    assert [len(chunk.payload) for chunk in packed.chunks] == [CHUNK_BYTES, CHUNK_BYTES, 3]
    assert packed.chunks[0].digest == packed.chunks[1].digest


def test_payload_may_be_a_view_of_anything() -> None:
    numpy = pytest.importorskip("numpy")
    floats = numpy.arange(6, dtype=numpy.float32)
    packed = pack(Snapshot(_manifest(24), memoryview(floats)))
    assert packed.listing.n_bytes == 24
    assert packed.chunks[0].digest == digest_of(floats.tobytes())


def test_digest_tells_manifest_from_chunks() -> None:
    """The same characters, divided elsewhere."""
    digest = "0" * 32
    assert snapshot_digest(b"ab", [digest]) != snapshot_digest(b"ab" + digest.encode(), [])


@given(st.binary(min_size=1, max_size=50), st.data())
def test_any_changed_bit_is_found(payload: bytes, data: st.DataObject) -> None:
    link = Link(digest_of(payload), len(payload))
    assert check_chunk("x", 0, link, payload) == payload
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    changed = bytearray(payload)
    changed[bit // 8] ^= 1 << (bit % 8)
    for damaged in (bytes(changed), payload[:-1], payload + b"x", None):
        with pytest.raises(CorruptionError, match=link.chunk):
            check_chunk("x", 0, link, damaged)
