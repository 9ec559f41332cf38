"""The mean of a whole SGD step, and how far from the kept point its training has got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from optuna_esgd.genome.matrix import Matrix

Tensors = dict[str, Tensor]

# How the names of what training is ahead by begin, among those of the optimizer's state.
_AHEAD = "ahead."


class StepMean:
    """The mean of a cohort's weights over the epochs of an SGD step so far, row by row.

    Where rates are high, the longer mean is closer to the minimum than that of one epoch, and so
    shows sooner where they lead; where they are low, it lags behind.

    Attributes:
        weights: The mean; None before the first epoch.
        n_epochs: How many epochs it is of.
    """

    def __init__(self, weights: Matrix | None = None, n_epochs: int = 0) -> None:
        self.weights = weights
        self.n_epochs = n_epochs

    @torch.no_grad()
    def add(self, epoch_mean: Matrix) -> Matrix | None:
        """Count in the mean of one more epoch.

        Args:
            epoch_mean: See ``iterate_mean.IterateMean``; it is not changed.

        Returns:
            The mean, a copy; None as long as it is that of one epoch. What is infinite, as in
            masks, or was in an epoch before, is as in the last one, and so are whole numbers.
        """
        self.n_epochs += 1
        if self.weights is None:
            self.weights = epoch_mean.clone()
            return None
        moved = epoch_mean.clone()
        for dtype, block in moved.blocks.items():
            if dtype.is_floating_point:
                # Of equal weights the mean is equal to the last bit, which a sum would not give.
                wide = torch.promote_types(dtype, torch.float32)
                before = self.weights.blocks[dtype].to(wide)
                mean = before.lerp(block.to(wide), 1 / self.n_epochs)
                block.copy_(torch.where(mean.isfinite(), mean.to(dtype), block))
        self.weights = moved
        return moved.clone()


def ahead_of(kept: Matrix, now: Matrix, rows: Sequence[int]) -> dict[int, Tensors]:
    """By how much the weights that training has got to differ from the points that were kept.

    Args:
        kept: Weights of all rows.
        now: Likewise.
        rows: Whose difference is asked for.

    Returns:
        By row, named tensors to go with its optimizer's state, of what is trained; nothing of a
        row whose training diverged. Running statistics belong to the weights they were measured
        with: moved by a difference, a variance may be negative.
    """
    found = {}
    trained = kept.parameters().keys()
    for row in rows:
        before, after = kept.read_row(row), now.read_row(row)
        ahead = {
            # Infinities, as in masks, do not differ from themselves.
            _AHEAD + name: torch.where(after[name] == tensor, 0, after[name] - tensor).cpu()
            for name, tensor in before.items()
            if name in trained
        }
        if all(bool(tensor.isfinite().all()) for tensor in ahead.values()):
            found[row] = ahead
    return found


def split_state(state: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
    """Divide what an individual carries on into its optimizer's state, and what is ahead."""
    of_optimizer = {n: tensor for n, tensor in state.items() if not n.startswith(_AHEAD)}
    return of_optimizer, {n: tensor for n, tensor in state.items() if n not in of_optimizer}


def go_ahead(weights: Matrix, ahead: Sequence[Mapping[str, Tensor]]) -> bool:
    """Move every row from its kept point to where training stood.

    Args:
        weights: Changed in place.
        ahead: From ``split_state``, one per row; empty for those that start from their birth.

    Returns:
        Whether any row moved.
    """
    for row, tensors in enumerate(ahead):
        if tensors:
            here = weights.read_row(row)
            for name, tensor in tensors.items():
                inner = name.removeprefix(_AHEAD)
                here[inner] = here[inner] + tensor.to(here[inner])
            weights.write_row(row, here)
    return any(ahead)
