"""C text of dropout whose masks are drawn from keys, as ``genome.keyed_randomness`` draws them."""

from __future__ import annotations

from collections.abc import Iterator

from optuna_esgd.draws.bits import FIRST, GOLDEN, SECOND
from optuna_esgd.native.chain import Layer

DROPOUT_FUNCTIONS = (
    r"""
static inline bits mix(bits x) {
  x = (x ^ (x >> 16)) * FIRST;
  x = (x ^ (x >> 15)) * SECOND;
  return x ^ (x >> 15);
}
/* Values are multiplied with factors that are kept: 0, or a scale for those that stay. */
static inline void drop(float *restrict values, float *restrict factors, long width,
                        uint64_t stream, uint32_t least, float scale, int64_t key, long start) {
  const uint32_t key_low = (uint32_t)((uint64_t)key + GOLDEN * (stream + 1));
  const bits low = mix((bits)splat_whole((int32_t)key_low));
  const bits high = mix((bits)splat_whole((int32_t)((uint64_t)key >> 32)) ^ low);
  const bits lowest = (bits)splat_whole((int32_t)least);
  for (long lane = 0; lane < CHUNK; lane += LANES)
    for (long one = 0; one < width; one++) {
      const int32_t first = (int32_t)(uint32_t)((start + lane) * width + one);
      const bits places = (bits)(LANE_NUMBERS * splat_whole((int32_t)width) + splat_whole(first));
      const bits drawn = mix((mix(places) ^ low) + high);
      const vector factor = masked((whole)(drawn >= lowest), splat(scale));
      const long at = one * CHUNK + lane;
      STORE(factors + at, factor);
      STORE(values + at, LOAD(values + at) * factor);
    }
}
""".replace("FIRST", f"{FIRST}u")
    .replace("SECOND", f"{SECOND}u")
    .replace("GOLDEN", f"{GOLDEN}ull")
)


def drop(layer: Layer, number: int, stream: int) -> Iterator[str]:
    """A layer's values, some of them left out.

    Args:
        layer: Which.
        number: Of its values.
        stream: How many calls of dropout there were before in the forward pass.
    """
    least, scale = round(layer.dropout * 2**32), 1 / (1 - layer.dropout)
    yield (
        f"  drop(s + values{number}, s + factors{number}, {layer.n_out}, {stream}, {least}u, "
        f"{scale!r}f, key, start);"
    )
