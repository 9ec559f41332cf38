"""Arithmetic that the rules share.

Notation: R rows (individuals of one species), d trainable weights each. Weights, gradients and
elementwise state are (R, d), hyperparameters and counters (R, 1) columns. For a single parameter
of any shape they are tensors of that shape and 0-dim: every expression here holds for both.
"""

from __future__ import annotations

import torch
from torch import Tensor


def arithmetic(parameters: Tensor) -> torch.dtype:
    """The precision that rows are updated in: the weights' own, at least float32.

    Coefficients such as 1 - beta ** t need more digits, and cost nothing: they are (R, 1), and are
    brought to this precision last.
    """
    return torch.float64 if parameters.dtype == torch.float64 else torch.float32


def with_weight_decay(
    gradients: Tensor, parameters: Tensor, weight_decay: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(R, d) gradients plus the L2 penalty's, in the precision of the arithmetic."""
    gradients = gradients.to(dtype)
    if weight_decay is None:
        return gradients
    return torch.addcmul(gradients, parameters.to(dtype), weight_decay.to(dtype))


def blend_(average: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    """Do average += weight * (value - average) in place.

    Returns:
        The average in the precision of ``value``: itself, or a copy.
    """
    weight = weight.to(value.dtype)
    if average.dtype == value.dtype:
        return average.lerp_(value, weight)
    blended = torch.lerp(average.to(value.dtype), value, weight)
    average.copy_(blended)
    return blended
