"""Large memory is used again, but never while somebody has it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from optuna_esgd import memory
from optuna_esgd.memory import empty_bytes

_LARGE = memory._LARGE_BYTES


@pytest.fixture(autouse=True)
def no_spare() -> Iterator[None]:
    gc.collect()
    memory._spare.clear()
    yield
    memory._spare.clear()


def _address(view: memoryview) -> int:
    return np.frombuffer(view, dtype=np.uint8).ctypes.data


@pytest.mark.parametrize("n_bytes", [0, 1, _LARGE - 1, _LARGE, _LARGE + 1])
def test_it_has_the_size_asked_for(n_bytes: int) -> None:
    for _ in range(2):
        view = empty_bytes(n_bytes)
        assert len(view) == n_bytes
        assert not view.readonly
        view[:] = bytes(n_bytes)


def test_what_is_free_is_used_again() -> None:
    first = empty_bytes(_LARGE)
    address = _address(first)
    del first
    assert _address(empty_bytes(_LARGE)) == address


def test_what_is_in_use_is_not() -> None:
    """By whatever refers to it: a view, an array, a tensor."""
    first = empty_bytes(_LARGE)
    address = _address(first)
    keepers: list[object] = [
        first[3:5],
        np.frombuffer(first, dtype=np.uint8),
        torch.frombuffer(first, dtype=torch.float32).view(-1, 2)[1:],
    ]
    del first
    while keepers:
        second = empty_bytes(_LARGE)
        assert _address(second) != address
        del second
        memory._spare.clear()
        keepers.pop()
    assert _address(empty_bytes(_LARGE)) == address


def test_much_smaller_ones_do_not_take_it() -> None:
    large = empty_bytes(4 * _LARGE)
    del large
    # Not by its address: the system may give what was freed at once to whoever asks next.
    lent = empty_bytes(_LARGE).obj
    assert isinstance(lent, np.ndarray)
    assert lent.base is not None
    assert len(lent.base) == _LARGE


def test_not_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [empty_bytes(_LARGE) for _ in range(3)]
    several.clear()
    assert len(memory._spare) == 1
    memory._spare.clear()
    monkeypatch.setattr(memory, "_MOST_SPARE_BYTES", _LARGE)
    empty_bytes(_LARGE + 1)
    assert memory._spare == []
