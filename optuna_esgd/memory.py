"""Memory for the bytes of networks, used again where it is large.

Fresh memory is filled with zeros by the system when it is first touched, which takes as long as
reading a network into it. What is small the C library keeps and gives again by itself.
"""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray

_Block = NDArray[np.uint8]

_LARGE_BYTES = 2**24  # what is larger may go back to the system at once when it is freed
_MOST_SPARE_BYTES = 2**29  # kept for the next one, however long it takes to come

_spare: list[_Block] = []  # at most one; what is done to it is one step each, so needs no lock


def empty_bytes(n_bytes: int) -> memoryview:
    """Memory of some size that nobody else uses; whatever is in it."""
    if n_bytes < _LARGE_BYTES:
        return np.empty(n_bytes, dtype=np.uint8).data
    block = _take_spare(n_bytes)
    if block is None:
        block = np.empty(n_bytes, dtype=np.uint8)
    lent = block[:n_bytes]
    if len(block) <= _MOST_SPARE_BYTES:
        # It comes back when nothing refers to it any more, tensors included.
        weakref.finalize(lent, _take_back, block).atexit = False
    return lent.data


def _take_spare(n_bytes: int) -> _Block | None:
    try:
        block = _spare.pop()
    except IndexError:
        return None
    return block if n_bytes <= len(block) <= 2 * n_bytes else None


def _take_back(block: _Block) -> None:
    _spare[:] = [block]
