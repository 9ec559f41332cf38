"""Learning rates of a torch optimizer, other than shown for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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
