"""C text for vectors of floats: loads, selections, transposed blocks, and functions of them.

Written with the vector types that GCC and Clang share, so that the order of every sum is what is
written here, whatever the compiler makes of it. Infinite and undefined numbers pass through as
they do in torch: who has diverged must look like it.
"""

from __future__ import annotations

from collections.abc import Iterator


def vector_source(lanes: int) -> str:
    """What all programs begin with.

    Args:
        lanes: Numbers in one vector, a power of two.
    """
    all_lanes = _repeat("x", lanes)
    return "\n".join(
        [
            _TYPES.replace("BYTES", str(4 * lanes)).replace("N_LANES", str(lanes)),
            f"static inline vector splat(float x) {{ return (vector){{{all_lanes}}}; }}",
            f"static inline whole splat_whole(int32_t x) {{ return (whole){{{all_lanes}}}; }}",
            f"static const whole LANE_NUMBERS = {{{', '.join(map(str, range(lanes)))}}};",
            *_transpose(lanes),
            *_sum_lanes(lanes),
            _FUNCTIONS,
        ]
    )


def _repeat(text: str, n: int) -> str:
    return ", ".join([text] * n)


def _shuffle(first: str, second: str, places: list[int]) -> str:
    return f"SHUFFLE({first}, {second}, {', '.join(map(str, places))})"


def _transpose(lanes: int) -> Iterator[str]:
    """A square block, by exchanging ever smaller blocks within pairs of rows."""
    yield (
        "static inline void transpose_block(const float *restrict from, long from_stride,\n"
        "                                   float *restrict to, long to_stride) {"
    )
    for row in range(lanes):
        yield f"  vector r{row} = LOAD(from + {row} * from_stride);"
    yield "  vector t;"
    distance = lanes // 2
    while distance:
        low = [at if not at & distance else lanes + at - distance for at in range(lanes)]
        high = [at + distance if not at & distance else lanes + at for at in range(lanes)]
        for row in range(lanes):
            if not row & distance:
                pair = f"r{row}", f"r{row + distance}"
                yield f"  t = {_shuffle(*pair, low)};"
                yield f"  {pair[1]} = {_shuffle(*pair, high)}; {pair[0]} = t;"
        distance //= 2
    for row in range(lanes):
        yield f"  STORE(to + {row} * to_stride, r{row});"
    yield "}"


def _sum_lanes(lanes: int) -> Iterator[str]:
    """The sums of as many vectors as there are lanes, side by side in one vector."""
    yield "static inline vector sum_lanes(const vector *restrict of) {"
    for row in range(lanes):
        yield f"  vector r{row} = of[{row}];"
    distance = lanes // 2
    while distance:
        low = [at if not at & distance else lanes + at - distance for at in range(lanes)]
        high = [at + distance if not at & distance else lanes + at for at in range(lanes)]
        for row in range(distance):
            pair = f"r{row}", f"r{row + distance}"
            yield f"  r{row} = {_shuffle(*pair, low)} + {_shuffle(*pair, high)};"
        distance //= 2
    yield "  return r0;"
    yield "}"


_TYPES = r"""
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = N_LANES };
typedef float vector __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(BYTES), aligned(4), may_alias));
#define LOAD(place) (*(const vector *)(place))
#define STORE(place, value) (*(vector *)(place) = (value))
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (whole){__VA_ARGS__})
#endif
static inline vector choose(whole where, vector a, vector b) {
  return (vector)((where & (whole)a) | (~where & (whole)b));
}
static inline vector masked(whole where, vector a) { return (vector)(where & (whole)a); }
"""

# exp, log, tanh after S. Moshier's Cephes library (expf, logf, tanhf), erf after Eigen's rational
# approximation; all within a few units in the last place of float32.
_FUNCTIONS = r"""
static inline vector absolute(vector x) {
  return (vector)((whole)x & splat_whole(0x7fffffff));
}
static inline vector exponential(vector x) {
  const vector low = splat(-87.33f), high = splat(88.37f), shift = splat(12582912.0f);
  vector y = choose(x < low, low, choose(x > high, high, x));
  const vector t = y * splat(1.44269504088896341f) + shift;
  const vector n = t - shift;
  const vector r = y - n * splat(0.693359375f) - n * splat(-2.12194440e-4f);
  vector p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.0f);
  y = (vector)((whole)p + (((whole)t - (whole)shift) << 23));
  y = choose(x < low, splat(0.0f), choose(x > splat(88.72f), splat(INFINITY), y));
  return choose(x == x, y, x);
}
/* Of positive numbers that are neither tiny nor infinite. */
static inline vector logarithm(vector given) {
  const whole exponents = (whole)((bits)given >> 23) - splat_whole(126);
  vector x = (vector)(((whole)given & splat_whole(0x007fffff)) | splat_whole(0x3f000000));
  const whole is_small = x < splat(0.707106781186547524f);
  vector e = __builtin_convertvector(exponents + is_small, vector);
  x = x - splat(1.0f) + masked(is_small, x);
  const vector z = x * x;
  vector p = splat(7.0376836292e-2f);
  p = p * x + splat(-1.1514610310e-1f);
  p = p * x + splat(1.1676998740e-1f);
  p = p * x + splat(-1.2420140846e-1f);
  p = p * x + splat(1.4249322787e-1f);
  p = p * x + splat(-1.6668057665e-1f);
  p = p * x + splat(2.0000714765e-1f);
  p = p * x + splat(-2.4999993993e-1f);
  p = p * x + splat(3.3333331174e-1f);
  p = p * x * z + e * splat(-2.12194440e-4f) - splat(0.5f) * z;
  return choose(given == given, x + p + e * splat(0.693359375f), given);
}
static inline vector sigmoid(vector x) {
  return splat(1.0f) / (splat(1.0f) + exponential(-x));
}
static inline vector hyperbolic_tangent(vector x) {
  const vector size = absolute(x), z = x * x;
  vector p = splat(-5.70498872745e-3f);
  p = p * z + splat(2.06390887954e-2f);
  p = p * z + splat(-5.37397155531e-2f);
  p = p * z + splat(1.33314422036e-1f);
  p = p * z + splat(-3.33332819422e-1f);
  p = p * z * x + x;
  const vector y = splat(1.0f) - splat(2.0f) / (exponential(size + size) + splat(1.0f));
  const vector signed_y = (vector)((whole)y | ((whole)x & splat_whole(INT32_MIN)));
  return choose(size < splat(0.625f), p, signed_y);
}
static inline vector error_function(vector given) {
  const vector x = choose(given < splat(-4.0f), splat(-4.0f),
                          choose(given > splat(4.0f), splat(4.0f), given));
  const vector z = x * x;
  vector p = splat(-2.72614225801306e-10f);
  p = p * z + splat(2.77068142495902e-08f);
  p = p * z + splat(-2.10102402082508e-06f);
  p = p * z + splat(-5.69250639462346e-05f);
  p = p * z + splat(-7.34990630326855e-04f);
  p = p * z + splat(-2.95459980854025e-03f);
  p = p * z + splat(-1.60960333262415e-02f);
  vector q = splat(-1.45660718464996e-05f);
  q = q * z + splat(-2.13374055278905e-04f);
  q = q * z + splat(-1.68282697438203e-03f);
  q = q * z + splat(-7.37332916720468e-03f);
  q = q * z + splat(-1.42647390514189e-02f);
  return x * p / q;
}
"""
