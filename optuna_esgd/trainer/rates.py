"""Learning rates of a torch optimizer, other than shown for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def multiplied_rates(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Multiply the learning rates of all groups that have one, and divide them again afterwards.

    So what a scheduler of the user's does to them meanwhile stays done.

    Args:
        optimizer: Leaves with the rates it came with, as far as nobody else has changed them.
        factor: See ``evolution.annealing.rate_factor``.
    """
    groups = [group for group in optimizer.param_groups if "lr" in group and factor != 1.0]
    shown = [group["lr"] for group in groups]
    scaled = [one * factor for one in shown]
    try:
        for group, rate in zip(groups, scaled, strict=True):
            group["lr"] = rate
        yield
    finally:
        for group, before, rate in zip(groups, shown, scaled, strict=True):
            group["lr"] = before if group["lr"] == rate else group["lr"] / factor


@contextlib.contextmanager
def scaled_rates(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Multiply the learning rates of all groups that have one, for a block.

    Args:
        optimizer: Leaves with the rates it came with.
        factor: See ``evolution.annealing.rate_factor``.
    """
    groups = [(group, group["lr"]) for group in optimizer.param_groups if "lr" in group]
    try:
        for group, shown in groups:
            group["lr"] = shown * factor
        yield
    finally:
        for group, shown in groups:
            group["lr"] = shown
