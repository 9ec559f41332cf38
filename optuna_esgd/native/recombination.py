"""Intermediate recombination with mutation in C: in one pass over memory.

Every number goes through the same rounded operations as in ``genome.breeding``, and normals are
those of ``draws.NormalRows``, bit by bit: nobody can tell whether a worker has a compiler. (Which
of two parents' NaN it is may differ.)
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from optuna_esgd.draws import PIECE, scaled_quantiles
from optuna_esgd.draws.bits import FIRST, GOLDEN, SECOND
from optuna_esgd.native.compiler import find_compiler, load_library

_LONG, _POINTER = ctypes.c_long, ctypes.c_void_p
# Loops without sums are written for one lane. Fused operations would round once instead of twice.
_FLAGS = ("-O3", "-ffp-contract=off")


class Recombination:
    """The compiled program.

    Args:
        library: Of ``_PROGRAM``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._breed = library.breed
        matrix = (_POINTER, _LONG)
        self._breed.argtypes = [_LONG, _LONG, *matrix * 2, *[_POINTER] * 4, _LONG]
        self._breed.restype = None

    def breed(
        self,
        pool: Tensor,
        families: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        scale: float,
        first_piece: int,
        out: Tensor,
    ) -> None:
        """Write (θ_1 + θ_2) / 2 + σ·ε, or θ_1 + σ·ε.

        Args:
            pool: (parents, n) float32 on the CPU.
            families: (offspring, 1 or 2) row numbers into ``pool``.
            seeds: Of each offspring's ε, from 0 to 2^63 - 1.
            scale: σ; no noise where it is 0.
            first_piece: Number of the piece of ε to begin with, see ``NormalRows``.
            out: (offspring, n), sharing no memory with the pool.
        """
        parents = torch.tensor(families, device="cpu").T.contiguous()
        keys = torch.tensor(seeds, device="cpu")
        quantiles = scaled_quantiles(scale) if scale > 0 else None
        self._breed(
            *out.shape,
            *(out.data_ptr(), out.stride(0)),
            *(pool.data_ptr(), pool.stride(0)),
            parents[0].data_ptr(),
            parents[1].data_ptr() if len(parents) > 1 else None,
            keys.data_ptr(),
            None if quantiles is None else quantiles.ctypes.data,
            first_piece,
        )


def build_recombination() -> Recombination | str:
    """Compile it, or say why that cannot be done here."""
    compiler = find_compiler()
    if isinstance(compiler, str):
        return compiler
    library = load_library(compiler, _CONSTANTS + _PROGRAM, *_FLAGS)
    return library if isinstance(library, str) else Recombination(library)


_CONSTANTS = rf"""
#include <stdint.h>
#include <string.h>
#define PIECE {PIECE}
#define FIRST {FIRST:#x}u
#define SECOND {SECOND:#x}u
#define GOLDEN {GOLDEN:#x}u
"""
_PROGRAM = r"""
static inline uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * FIRST;
  x = (x ^ (x >> 15)) * SECOND;
  return x ^ (x >> 15);
}

/* The halves h_0, h_1, ... of a piece's words. */
static void draw_halves(uint16_t *restrict halves, long n_words, uint64_t key, uint32_t piece) {
  const uint32_t low = mix((uint32_t)key + GOLDEN * (piece + 1));
  const uint32_t high = mix((uint32_t)(key >> 32) ^ low) | 1;
  for (long w = 0; w < n_words; w++) {
    uint32_t x = (mix((uint32_t)w) ^ low) * high;
    x = (x ^ (x >> 16)) * SECOND;
    x ^= x >> 15;
    halves[2 * w] = (uint16_t)x;
    halves[2 * w + 1] = (uint16_t)(x >> 16);
  }
}

/* Piece by piece: what is read of a parent stays in the cache for all of its offspring. */
void breed(long n_rows, long n, float *out, long out_stride, const float *pool, long pool_stride,
           const int64_t *first_parents, const int64_t *second_parents, const int64_t *seeds,
           const float *restrict quantiles, long piece) {
  uint16_t halves[PIECE];
  for (long start = 0; start < n; start += PIECE, piece++) {
    const long n_here = n - start < PIECE ? n - start : PIECE;
    const long n_words = (n_here + 1) / 2, n_rest = n_here - n_words;
    for (long row = 0; row < n_rows; row++) {
      const float *restrict first = pool + first_parents[row] * pool_stride + start;
      float *restrict to = out + row * out_stride + start;
      if (second_parents) {
        const float *restrict second = pool + second_parents[row] * pool_stride + start;
        for (long i = 0; i < n_here; i++) to[i] = (first[i] + second[i]) * 0.5f;
      } else {
        memcpy(to, first, 4 * n_here);
      }
      if (!quantiles) continue;
      draw_halves(halves, n_words, (uint64_t)seeds[row], (uint32_t)piece);
      for (long i = 0; i < n_rest; i++) {
        const float u = quantiles[halves[i]], v = quantiles[halves[n_words + i]];
        to[i] += u + v;
        to[n_words + i] += u - v;
      }
      if (n_rest < n_words) {
        to[n_rest] += quantiles[halves[n_rest]] + quantiles[halves[n_words + n_rest]];
      }
    }
  }
}
"""
