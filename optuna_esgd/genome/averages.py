"""Means of parents' weights: every number by the same rounded operations, whoever is computed."""

from __future__ import annotations

import torch
from torch import Tensor

_HALF = torch.tensor(0.5, device="cpu")  # a number would be made a tensor of anew for every piece


def average_two(parents: list[Tensor], out: Tensor) -> None:
    """Write the mean of two parents, as (θ_1 + θ_2) / 2: in two passes over memory, not three.

    As exact where they agree as ``average``, up to half of the largest number there is: weights
    beyond that have diverged, but buffers may hold such constants.
    """
    first, second = parents
    if first.dtype != out.dtype:
        first, second = first.to(out.dtype), second.to(out.dtype)
    # Two operations: fused, as by lerp, subnormal numbers would depend on the processor.
    torch.add(first, second, out=out)
    torch.mul(out, _HALF, out=out)


def average(parents: list[Tensor], out: Tensor, scratch: Tensor) -> None:
    """Write the parents' mean, as θ_1 + Σ (θ_j − θ_1) / ρ.

    Unlike the sum divided by ρ, this is exact where all parents agree.

    Args:
        parents: ρ > 1 rows.
        out: A row in the precision to average in.
        scratch: (>= 2, columns) in that precision.
    """
    first, *others = (parent.to(out.dtype) for parent in parents)
    difference = torch.sub(others[0], first, out=scratch[0])
    for other in others[1:]:
        difference.add_(torch.sub(other, first, out=scratch[1]))
    torch.add(first, difference.div_(len(parents)), out=out)


def keep_infinities(parents: list[Tensor], out: Tensor) -> None:
    """Where all parents have the same infinity, as in masks kept in buffers, so has their mean.

    Args:
        parents: ρ rows.
        out: Their mean, in the precision it was made in.
    """
    first, *others = (parent.to(out.dtype) for parent in parents)
    agree = first.isinf()
    for other in others:
        agree &= other == first
    torch.where(agree, first, out, out=out)
