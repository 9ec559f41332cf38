"""C text of losses: the sum of a chunk's losses, and its slopes with respect to the outputs."""

from __future__ import annotations

from collections.abc import Mapping

from optuna_esgd.native.chain import Loss

_CROSS_ENTROPY = r"""
static float chunk_loss(float *restrict s, const void *restrict targets,
                        const int64_t *restrict numbers, long start, long n, float share) {
  float total = 0.0f;
  for (long lane = 0; lane < CHUNK && lane < n; lane += LANES) {
    vector largest = LOAD(OUTPUTS + lane), sum = splat(0.0f), right = splat(0.0f);
    for (long one = 1; one < N_OUT; one++) {
      const vector y = LOAD(OUTPUTS + one * CHUNK + lane);
      largest = choose(y > largest, y, largest);
    }
    for (long one = 0; one < N_OUT; one++) {
      const vector e = exponential(LOAD(OUTPUTS + one * CHUNK + lane) - largest);
      STORE(SLOPES + one * CHUNK + lane, e);
      sum += e;
    }
    const long n_here = n - lane < LANES ? n - lane : LANES;
    int32_t classes[LANES];
    for (long one = 0; one < n_here; one++) {
      const int64_t number = start + lane + one;
      const int64_t class = ((const int64_t *)targets)[numbers ? numbers[number] : number];
      /* Targets were checked, but they are the user's, and may have changed since. */
      const int is_class = class >= 0 && class < N_OUT;
      total += is_class ? 0.0f : __builtin_nanf("");
      classes[one] = is_class ? (int32_t)class : 0;
      right[one] = OUTPUTS[classes[one] * CHUNK + lane + one];
    }
    total += sum_first(logarithm(sum) - (right - largest), n_here);
    const vector factor = splat(share) / sum;
    for (long one = 0; one < N_OUT; one++)
      STORE(SLOPES + one * CHUNK + lane, LOAD(SLOPES + one * CHUNK + lane) * factor);
    for (long one = 0; one < n_here; one++)
      SLOPES[classes[one] * CHUNK + lane + one] -= share;
  }
  return total;
}
enum { TERMS = 1 };
"""

_ELEMENTWISE = r"""
static float chunk_loss(float *restrict s, const void *restrict targets,
                        const int64_t *restrict numbers, long start, long n, float share) {
  float total = 0.0f;
  for (long lane = 0; lane < CHUNK && lane < n; lane += LANES) {
    const long n_here = n - lane < LANES ? n - lane : LANES;
    vector sum = splat(0.0f);
    for (long one = 0; one < N_OUT; one++) {
      const vector y = LOAD(OUTPUTS + one * CHUNK + lane);
      vector target = splat(0.0f);
      for (long example = 0; example < n_here; example++) {
        const int64_t number = start + lane + example;
        target[example] =
            ((const float *)targets)[(numbers ? numbers[number] : number) * N_OUT + one];
      }
      const vector zero = splat(0.0f);
      (void)zero;
      sum += LOSS;
      STORE(SLOPES + one * CHUNK + lane, (SLOPE) * splat(share));
    }
    total += sum_first(sum, n_here);
  }
  return total;
}
enum { TERMS = N_OUT };
"""


def _elementwise(loss: str, slope: str) -> str:
    return _ELEMENTWISE.replace("LOSS;", f"{loss};").replace("(SLOPE)", f"({slope})")


# Slopes come times a share, that of one term in the mean.
LOSSES: Mapping[Loss, str] = {
    "cross_entropy": _CROSS_ENTROPY,
    "mse_loss": _elementwise("(y - target) * (y - target)", "splat(2.0f) * (y - target)"),
    "l1_loss": _elementwise(
        "absolute(y - target)",
        "choose(y > target, splat(1.0f), choose(y < target, splat(-1.0f), y - target))",
    ),
    "bce_with_logits": _elementwise(
        "choose(y < zero, zero, y) - y * target + "
        "logarithm(splat(1.0f) + exponential(-absolute(y)))",
        "sigmoid(y) - target",
    ),
}

NO_LOSS = r"""
enum { TERMS = 1 };
static float chunk_loss(float *restrict s, const void *restrict targets,
                        const int64_t *restrict numbers, long start, long n, float share) {
  (void)s; (void)targets; (void)numbers; (void)start; (void)n; (void)share;
  return 0.0f;
}
static void loss_slopes(float *restrict s, long n) { (void)s; (void)n; }
"""
