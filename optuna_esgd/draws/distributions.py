"""Uniform and normal numbers from keyed bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optuna_esgd.draws.bits import keyed_bits


def keyed_uniform(key: Tensor, stream: int, places: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in (0, 1], evenly spread; see ``keyed_bits`` for the arguments."""
    return (keyed_bits(key, stream, places).to(dtype) + 0.5) * 2.0**-32


def keyed_normal(key: Tensor, stream: int, places: Tensor, dtype: torch.dtype) -> Tensor:
    """Independent N(0, 1) numbers (Box & Muller 1958); uses streams 2·stream and 2·stream + 1.

    None is further from 0 than 6.8, because 32 bits tell no smaller probability apart.
    """
    radius = keyed_uniform(key, 2 * stream, places, dtype).log_().mul_(-2).sqrt_()
    angle = keyed_uniform(key, 2 * stream + 1, places, dtype).mul_(2 * math.pi)
    return radius.mul_(angle.cos_())
