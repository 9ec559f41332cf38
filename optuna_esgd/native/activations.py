"""C text of activations and their slopes.

Both work on the scratch memory ``s`` of a program: sums of a layer become values in place, and
slopes (gradients) with respect to the values become slopes with respect to the sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optuna_esgd.native.chain import Activation, Layer

ACTIVATION_FUNCTIONS = r"""
static inline vector silu_slope(vector z) {
  const vector y = sigmoid(z);
  return y * (splat(1.0f) + z * (splat(1.0f) - y));
}
static inline vector gelu(vector z) {
  return splat(0.5f) * z * (splat(1.0f) + error_function(z * splat(0.70710678118654752f)));
}
static inline vector gelu_slope(vector z) {
  return splat(0.5f) * (splat(1.0f) + error_function(z * splat(0.70710678118654752f))) +
         z * exponential(splat(-0.5f) * z * z) * splat(0.39894228040143267f);
}
static inline vector gelu_tanh(vector z) {
  const vector inner = splat(0.79788456080286536f) * (z + splat(0.044715f) * z * z * z);
  return splat(0.5f) * z * (splat(1.0f) + hyperbolic_tangent(inner));
}
static inline vector gelu_tanh_slope(vector z) {
  const vector inner = splat(0.79788456080286536f) * (z + splat(0.044715f) * z * z * z);
  const vector inner_slope =
      splat(0.79788456080286536f) * (splat(1.0f) + splat(0.134145f) * z * z);
  const vector t = hyperbolic_tangent(inner);
  return splat(0.5f) * (splat(1.0f) + t) +
         splat(0.5f) * z * (splat(1.0f) - t * t) * inner_slope;
}
"""

# What becomes of a sum z, and of a slope, given y or z.
_FORMULAS: Mapping[str, tuple[str, str]] = {
    "relu": ("choose(z < zero, zero, z)", "choose(y <= zero, zero, slope)"),
    "leaky_relu": ("choose(z < zero, z * number, z)", "choose(y <= zero, slope * number, slope)"),
    "tanh": ("hyperbolic_tangent(z)", "slope * (one - y * y)"),
    "sigmoid": ("sigmoid(z)", "slope * y * (one - y)"),
    "elu": (
        "choose(z < zero, (exponential(z) - one) * number, z)",
        "choose(y <= zero, slope * (y + number), slope)",
    ),
    "silu": ("z * sigmoid(z)", "slope * silu_slope(z)"),
    "gelu": ("gelu(z)", "slope * gelu_slope(z)"),
    "gelu_tanh": ("gelu_tanh(z)", "slope * gelu_tanh_slope(z)"),
}
_OF_SUMS = frozenset({"silu", "gelu", "gelu_tanh"})


def _constants(activation: Activation) -> str:
    return (
        "  const vector zero = splat(0.0f), one = splat(1.0f), "
        f"number = splat({activation.number!r}f);\n  (void)zero; (void)one; (void)number;"
    )


def activate(layer: Layer, number: int) -> Iterator[str]:
    """In place; what slopes are functions of is kept, where it is not what values end as."""
    activation = layer.activation
    if activation is not None:
        yield _constants(activation)
        yield f"  for (long at = 0; at < {layer.n_out} * CHUNK; at += LANES) {{"
        yield f"    const vector z = LOAD(s + values{number} + at);"
        yield f"    const vector y = {_FORMULAS[activation.name][0]};"
        yield f"    STORE(s + values{number} + at, y);"
        if has_sums(layer):
            kept = "z" if activation.name in _OF_SUMS else "y"
            yield f"    STORE(s + sums{number} + at, {kept});"
        yield "  }"


def has_sums(layer: Layer) -> bool:
    """Whether slopes need a layer's sums, or its values before dropout."""
    activation = layer.activation
    return activation is not None and (activation.name in _OF_SUMS or layer.dropout > 0)


def multiply_slopes(layer: Layer, number: int) -> Iterator[str]:
    """Gradients of what became of the sums are made those of the sums; empty lanes become 0."""
    activation = layer.activation
    yield "  const whole lanes_left = splat_whole((int32_t)n) - LANE_NUMBERS;"
    if activation is not None:
        yield _constants(activation)
    yield f"  for (long row = 0; row < {layer.n_out}; row++)"
    yield "    for (long lane = 0; lane < CHUNK; lane += LANES) {"
    yield "      const long at = row * CHUNK + lane;"
    yield f"      vector slope = LOAD(s + slopes{number} + at);"
    if layer.dropout:
        yield f"      slope *= LOAD(s + factors{number} + at);"
    if activation is not None:
        of = "z" if activation.name in _OF_SUMS else "y"
        kept = "sums" if has_sums(layer) else "values"
        yield f"      const vector {of} = LOAD(s + {kept}{number} + at);"
        yield f"      slope = {_FORMULAS[activation.name][1]};"
    yield "      slope = masked(splat_whole((int32_t)lane) < lanes_left, slope);"
    yield f"      STORE(s + slopes{number} + at, slope);"
    yield "    }"
