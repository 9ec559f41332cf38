"""Long rows of normal numbers, the same bits on every processor and device.

Notation: a row of normals is cut into *pieces* of at most ``PIECE`` places; piece p is stream p of
the row's key. For n places a piece takes m = ⌈n/2⌉ words of 32 bits, modulo 2^32:
x = (s_w XOR low) · (high OR 1), with the scrambled number s_w of word w and the stream's words;
x ^= x >> 16; x = x · c; x ^= x >> 15. The halves of word w, low half first, are h_2w and h_2w+1.
Let z_i = σ·q(h_i) / √2, where q(h) is the (h + ½) / 2^16 quantile of N(0, 1), scaled to variance
1. Place i < m is z_i + z_m+i, and place m + i is z_i − z_m+i.

Two independent normals turned by 45° are two independent normals, and 2^16 values become 2^32, out
to 6.1. There is no logarithm, no cosine and nothing to be fused: only whole numbers, a table and
one rounded sum, so nothing in which processors and libraries differ.
"""

from __future__ import annotations

import functools
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optuna_esgd.draws.bits import MASK, SECOND, mix, stream_words

PIECE = 2**15
_N_QUANTILES = 2**16
_SECOND, _FIRST_SHIFT, _SECOND_SHIFT = np.uint32(SECOND), np.uint32(16), np.uint32(15)

Floats = NDArray[np.float32]


class NormalRows:
    """Draws rows of normals; keeps what it needs for that, so make one for many rows.

    Args:
        device: Where the numbers are wanted.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._words = np.empty(PIECE // 2, dtype=np.uint32)
        self._shifted = np.empty_like(self._words)
        self._normals = np.empty(PIECE, dtype=np.float32)

    def fill(self, out: Tensor, key: int, *, scale: float = 1.0, first_piece: int = 0) -> Tensor:
        """Fill a row, or some pieces of one.

        Args:
            out: (n,) float32, contiguous, on the device.
            key: From 0 to 2^63 - 1; neighbouring keys give unrelated numbers.
            scale: σ, finite.
            first_piece: Number of the piece that ``out`` begins with.

        Returns:
            ``out``, with independent N(0, σ²) numbers.
        """
        fill = self._fill_on_cpu if self._device.type == "cpu" else self._fill_elsewhere
        fill(out, key, scaled_quantiles(scale), first_piece)
        return out

    def _fill_on_cpu(self, out: Tensor, key: int, table: Floats, first_piece: int) -> None:
        numbers = out.numpy()
        for piece, start in enumerate(range(0, len(numbers), PIECE), start=first_piece):
            self._fill_piece(numbers[start : start + PIECE], stream_words(key, piece), table)

    def _fill_piece(self, out: Floats, stream: tuple[int, int], table: Floats) -> None:
        """One piece, in place, in the processor's cache."""
        n_words = -(-len(out) // 2)
        low, high = stream
        x, shifted = self._words[:n_words], self._shifted[:n_words]
        np.bitwise_xor(_places()[:n_words], np.uint32(low), out=x)
        np.multiply(x, np.uint32(high | 1), out=x)
        np.bitwise_xor(x, np.right_shift(x, _FIRST_SHIFT, out=shifted), out=x)
        np.multiply(x, _SECOND, out=x)
        np.bitwise_xor(x, np.right_shift(x, _SECOND_SHIFT, out=shifted), out=x)
        z = self._normals[: 2 * n_words]
        # Nothing is out of range; other modes copy, to leave ``z`` alone if something were.
        np.take(table, x.astype("<u4", copy=False).view("<u2"), out=z, mode="wrap")
        n_rest = len(out) - n_words
        np.add(z[:n_words], z[n_words:], out=out[:n_words])
        np.subtract(z[:n_rest], z[n_words : n_words + n_rest], out=out[n_words:])

    def _fill_elsewhere(self, out: Tensor, key: int, table: Floats, first_piece: int) -> None:
        n_full = len(out) // PIECE
        whole, rest = out[: n_full * PIECE].view(n_full, PIECE), out[n_full * PIECE :]
        there = torch.tensor(table, device=out.device)
        _fill_pieces(whole, key, there, first_piece)
        if len(rest):
            _fill_pieces(rest.unsqueeze(0), key, there, first_piece + n_full)


def _fill_pieces(out: Tensor, key: int, table: Tensor, first_piece: int) -> None:
    """(pieces, places) at once, on any device."""
    n_pieces, n_places = out.shape
    n_words = -(-n_places // 2)
    pieces = torch.arange(first_piece, first_piece + n_pieces, device=out.device)
    low, high = stream_words(torch.full_like(pieces, key), pieces)
    x = mix(torch.arange(n_words, device=out.device)) ^ low.unsqueeze(1)
    x = (x * (high | 1).unsqueeze(1)) & MASK
    x = ((x ^ (x >> 16)) * SECOND) & MASK
    x = x ^ (x >> 15)
    z = table[torch.stack((x & 0xFFFF, x >> 16), dim=-1)].flatten(1)
    first, second = z[:, :n_words], z[:, n_words:]
    out.copy_(torch.cat((first + second, first - second), dim=1)[:, :n_places])


@functools.cache
def _places() -> NDArray[np.uint32]:
    """The scrambled numbers of a piece's words."""
    places: NDArray[np.int64] = mix(torch.arange(PIECE // 2, device="cpu")).numpy()
    return places.astype(np.uint32)


@functools.lru_cache(maxsize=8)
def scaled_quantiles(scale: float) -> Floats:
    """σ·q(h) / √2 for all h: (2^16,) float32, not to be changed."""
    return _quantiles() * np.float32(scale)


@functools.cache
def _quantiles() -> Floats:
    """q(h) / √2 for all h."""
    normal = NormalDist()
    lower = [normal.inv_cdf((h + 0.5) / _N_QUANTILES) for h in range(_N_QUANTILES // 2)]
    quantiles = np.array([*lower, *(-value for value in reversed(lower))])
    scaled: NDArray[np.float64] = quantiles / np.sqrt(2 * np.mean(quantiles**2))
    return scaled.astype(np.float32)
