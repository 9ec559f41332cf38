"""Counter-based randomness: every draw is addressed by what it is for, never by when it happens.

A stream depends on the seed and its counter (generation, individual, purpose, ...) only, so a
draw does not depend on the worker, on the order of arrival, or on how often it was tried.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence


def _digest(seed: int, counter: tuple[int | str, ...]) -> bytes:
    text = repr((int(seed), *(part if isinstance(part, str) else int(part) for part in counter)))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class _Key(ISeedSequence):
    """A key of Philox. By the argument ``key`` it would ask the system for random bytes first."""

    def __init__(self, digest: bytes) -> None:
        self._words = np.frombuffer(digest[::-1], dtype="<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> npt.NDArray[np.uint64]:
        """The two words of the key, the lower one first."""
        del n_words, dtype
        return self._words


def stream(seed: int, *counter: int | str) -> np.random.Generator:
    """Open the random stream at ``counter``.

    Args:
        seed: The run's seed.
        *counter: What the draw is for, e.g. ``(generation, individual, "parents")``.

    Returns:
        A generator that yields the same numbers whenever it is opened with the same arguments.
    """
    key: Any = _Key(_digest(seed, counter))  # NumPy's own types forget that it takes these
    return np.random.Generator(np.random.Philox(key))


def derive_seed(seed: int, *counter: int | str) -> int:
    """Derive a 63-bit seed for a generator of another library (e.g. ``torch.Generator``)."""
    return int.from_bytes(_digest(seed, counter)[:8], "big") >> 1
