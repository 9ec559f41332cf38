"""The updates of common optimizers in C: one pass over weights, gradients and state.

Notation: R rows, d weights each; hyperparameters are float64 and counters float32 of (R, 1).
"""

from __future__ import annotations

import ctypes

from torch import Tensor

from optuna_esgd.native.compiler import find_compiler, load_library
from optuna_esgd.native.kernel import registers_of
from optuna_esgd.native.source import Registers
from optuna_esgd.native.vectors import vector_source

_LONG, _POINTER, _INT = ctypes.c_long, ctypes.c_void_p, ctypes.c_int


class Updates:
    """The compiled updates.

    Args:
        library: Of the program that ``updates_source`` writes.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        matrix = (_POINTER, _LONG)
        self._sgd, self._adam = library.sgd, library.adam
        self._sgd.argtypes = [_LONG, _LONG, *matrix * 3, *[_POINTER] * 4]
        self._sgd.restype = None
        self._adam.argtypes = [_LONG, _LONG, *matrix * 5, *[_POINTER] * 6, _INT]
        self._adam.restype = None

    def sgd(
        self,
        parameters: Tensor,
        gradients: Tensor,
        velocity: Tensor | None,
        lr: Tensor,
        momentum: Tensor | None,
        weight_decay: Tensor | None,
        nesterov: Tensor | None,
    ) -> None:
        """SGD: v ← μ·v + g; θ ← θ - lr·v, or θ - lr·(g + μ·v) in rows with Nesterov's momentum.

        Args:
            parameters: (R, d) float32, changed in place.
            gradients: (R, d).
            velocity: (R, d), changed in place; None where there is no momentum.
            lr: (R, 1).
            momentum: (R, 1), or None.
            weight_decay: (R, 1), or None.
            nesterov: (R, 1) of 0 or 1, or None.
        """
        self._sgd(
            *parameters.shape,
            *_matrix(parameters),
            *_matrix(gradients),
            *_matrix(velocity),
            *map(_place, (lr, momentum, weight_decay, nesterov)),
        )

    def adam(
        self,
        parameters: Tensor,
        gradients: Tensor,
        means: tuple[Tensor, Tensor, Tensor | None],
        step: Tensor,
        columns: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
        *,
        decouples_weight_decay: bool,
    ) -> None:
        """Adam: m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; θ ← θ - lr·m̂ / (√v̂ + ε).

        Args:
            parameters: (R, d) float32, changed in place.
            gradients: (R, d).
            means: (R, d) m, v, and the largest v so far if that is wanted; changed in place.
            step: (R, 1) how many there were; counts on.
            columns: (R, 1) lr, β₁, β₂, ε, and the weight decay if there is any.
            decouples_weight_decay: Whether it shrinks weights, instead of adding to gradients.
        """
        self._adam(
            *parameters.shape,
            *_matrix(parameters),
            *_matrix(gradients),
            *(number for one in means for number in _matrix(one)),
            _place(step),
            *map(_place, columns),
            decouples_weight_decay,
        )


def build_updates() -> Updates | str:
    """Compile the updates, or say why that cannot be done here."""
    compiler = find_compiler()
    if isinstance(compiler, str):
        return compiler
    library = load_library(compiler, updates_source(registers_of(compiler)))
    return library if isinstance(library, str) else Updates(library)


def updates_source(registers: Registers) -> str:
    """The program as C text."""
    return vector_source(registers.lanes) + _SOURCE


def _matrix(of: Tensor | None) -> tuple[int | None, int]:
    return (None, 0) if of is None else (of.data_ptr(), of.stride(0))


def _place(of: Tensor | None) -> int | None:
    return None if of is None else of.data_ptr()


# Rows end in a part of a vector, which is copied to a whole one: so every number goes through the
# same operations.
_SOURCE = r"""
static inline vector load_first(const float *place, long n) {
  if (n >= LANES) return LOAD(place);
  vector of = splat(0.0f);
  memcpy(&of, place, 4 * n);
  return of;
}
static inline void store_first(float *place, vector of, long n) {
  if (n >= LANES) STORE(place, of);
  else memcpy(place, &of, 4 * n);
}
static inline vector root(vector of) {
  vector to;
  for (int lane = 0; lane < LANES; lane++) to[lane] = sqrtf(of[lane]);
  return to;
}

void sgd(long n_rows, long n, float *parameters, long parameter_stride, const float *gradients,
         long gradient_stride, float *velocities, long velocity_stride, const double *lr,
         const double *momentum, const double *weight_decay, const double *nesterov) {
  for (long row = 0; row < n_rows; row++) {
    float *const p = parameters + row * parameter_stride;
    const float *const g = gradients + row * gradient_stride;
    float *const v = velocities ? velocities + row * velocity_stride : NULL;
    const double is_nesterov = nesterov ? nesterov[row] : 0.0;
    const double mu = momentum ? momentum[row] : 0.0;
    const vector decay = splat(weight_decay ? (float)weight_decay[row] : 0.0f);
    const vector keep = splat((float)mu);
    const vector of_gradient = splat((float)(v ? -lr[row] * is_nesterov : -lr[row]));
    const vector of_velocity = splat((float)(-lr[row] * (1.0 + is_nesterov * (mu - 1.0))));
    for (long at = 0; at < n; at += LANES) {
      const long n_here = n - at;
      vector weights = load_first(p + at, n_here), slopes = load_first(g + at, n_here);
      if (weight_decay) slopes += decay * weights;
      if (v) {
        const vector velocity = keep * load_first(v + at, n_here) + slopes;
        store_first(v + at, velocity, n_here);
        weights += of_velocity * velocity;
      }
      if (!v || nesterov) weights += of_gradient * slopes;
      store_first(p + at, weights, n_here);
    }
  }
}

void adam(long n_rows, long n, float *parameters, long parameter_stride, const float *gradients,
          long gradient_stride, float *means, long mean_stride, float *squares,
          long square_stride, float *maxima, long maximum_stride, float *steps, const double *lr,
          const double *beta1, const double *beta2, const double *eps,
          const double *weight_decay, int decouples) {
  for (long row = 0; row < n_rows; row++) {
    float *const p = parameters + row * parameter_stride;
    const float *const g = gradients + row * gradient_stride;
    float *const m = means + row * mean_stride;
    float *const s = squares + row * square_stride;
    float *const x = maxima ? maxima + row * maximum_stride : NULL;
    const double t = steps[row] += 1.0f;
    const double decay = weight_decay ? weight_decay[row] : 0.0;
    const vector shrink = splat((float)(1.0 - lr[row] * decay)), added = splat((float)decay);
    const vector of_mean = splat((float)(1.0 - beta1[row]));
    const vector of_square = splat((float)(1.0 - beta2[row]));
    const vector scale = splat((float)(1.0 / sqrt(1.0 - pow(beta2[row], t))));
    const vector rate = splat((float)(-lr[row] / (1.0 - pow(beta1[row], t))));
    const vector least = splat((float)eps[row]);
    for (long at = 0; at < n; at += LANES) {
      const long n_here = n - at;
      vector weights = load_first(p + at, n_here), slopes = load_first(g + at, n_here);
      if (weight_decay && decouples) weights *= shrink;
      if (weight_decay && !decouples) slopes += added * weights;
      vector mean = load_first(m + at, n_here), square = load_first(s + at, n_here);
      mean += of_mean * (slopes - mean);
      square += of_square * (slopes * slopes - square);
      store_first(m + at, mean, n_here);
      store_first(s + at, square, n_here);
      if (x) {
        const vector before = load_first(x + at, n_here);
        square = choose(square <= before, before, square);
        store_first(x + at, square, n_here);
      }
      weights += rate * (mean / (root(square) * scale + least));
      store_first(p + at, weights, n_here);
    }
  }
}
"""
