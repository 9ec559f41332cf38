"""32 random bits per element, by integer arithmetic on tensors."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

_Word = TypeVar("_Word", int, Tensor)

MASK = 0xFFFFFFFF
# Multipliers of a 32-bit mixing function found by search (C. Wellons and TheIronBorn, "Prospecting
# for hash functions", bias 0.107). Both are below 2**31, so that products fit into int64.
FIRST, SECOND = 0x21F0AAAD, 0x735A2D97
GOLDEN = 0x9E3779B9


def keyed_bits(key: Tensor, stream: int, places: Tensor) -> Tensor:
    """Whole numbers in [0, 2^32), a function of the arguments alone.

    Args:
        key: int64, of any shape that broadcasts with ``places``; all of its bits count, and
            neighbouring keys give unrelated numbers.
        stream: What is drawn; from 0.
        places: int64 numbers of the elements.

    Returns:
        int64 of the broadcast shape.
    """
    low, high = stream_words(key, stream)
    # Scrambled once for all keys: where rows have keys of their own only what follows is per row.
    place = mix(places & MASK)
    return mix(((place ^ low) + high) & MASK)


def stream_words(key: _Word, stream: _Word | int) -> tuple[_Word, _Word]:
    """The two words in [0, 2^32) by which a stream of a key differs from all others."""
    low = mix((key + GOLDEN * (stream + 1)) & MASK)
    return low, mix(((key >> 32) & MASK) ^ low)


def mix(x: _Word) -> _Word:
    """Scramble whole numbers in [0, 2^32), one to one."""
    x = ((x ^ (x >> 16)) * FIRST) & MASK
    x = ((x ^ (x >> 15)) * SECOND) & MASK
    return x ^ (x >> 15)
