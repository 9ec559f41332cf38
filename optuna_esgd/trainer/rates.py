"""Learning rates of a torch optimizer, other than shown for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def scaled_rates(
    optimizer: torch.optim.Optimizer, factor: float, *, keeps_changes: bool = False
) -> Iterator[None]:
    """Multiply the learning rates of all groups that have one, for a block.

    Args:
        optimizer: Leaves with the rates it came with.
        factor: See ``evolution.annealing.rate_factor``.
        keeps_changes: Whether what others have made of a rate meanwhile stays, divided by the
            factor, such as what a scheduler of the user's did.
    """
    groups = [(group, group["lr"]) for group in optimizer.param_groups if "lr" in group]
    try:
        for group, shown in groups:
            group["lr"] = shown * factor
        yield
    finally:
        for group, shown in groups:
            is_changed = keeps_changes and group["lr"] != shown * factor
            group["lr"] = group["lr"] / factor if is_changed else shown
