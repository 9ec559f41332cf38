"""The mean of the weights that training goes through, as one more point to keep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from optuna_esgd.genome.matrix import Matrix

_Place: TypeAlias = tuple[Tensor, nn.Module, str]


class IterateMean:
    """The mean of a cohort's weights over the steps of one epoch, row by row.

    Where the learning rate keeps an optimizer moving about a minimum, the mean of its iterates is
    closer to that minimum than any of them (Polyak and Juditsky 1992). Running statistics of
    batch-norm are averaged with the weights; frozen weights and whole numbers stay as they are.

    Args:
        like: Weights of the layout and size to come; half precision is averaged in single.
    """

    def __init__(self, like: Matrix) -> None:
        self._means = {
            dtype: torch.zeros(
                block.shape, dtype=torch.promote_types(dtype, torch.float32), device=block.device
            )
            for dtype, block in like.blocks.items()
            if dtype.is_floating_point
        }
        self._layout = like.layout
        self._n_steps = [0] * like.n_rows

    def begin(self) -> None:
        """Forget the epoch before; what diverged in it must not stay."""
        self._n_steps = [0] * len(self._n_steps)
        for mean in self._means.values():
            mean.zero_()

    def forget(self, rows: Iterable[int]) -> None:
        """Leave these rows without a mean in this epoch: they failed on the way."""
        for row in rows:
            self._n_steps[row] = 0

    @torch.no_grad()
    def add(self, weights: Matrix, rows: range) -> None:
        """Count in where these rows have got to, all by the same number of steps.

        Args:
            weights: Of all rows.
            rows: Those that have made a step.
        """
        for row in rows:
            self._n_steps[row] += 1
        share = 1 / self._n_steps[rows.start]
        here = slice(rows.start, rows.stop)
        for dtype, mean in self._means.items():
            # Of equal weights the mean is equal to the last bit, which a sum would not give.
            mean[here].lerp_(weights.blocks[dtype][here].to(mean.dtype), share)

    @contextlib.contextmanager
    def following(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, row: int
    ) -> Iterator[None]:
        """Count in a model after each step of its optimizer within the block.

        Args:
            model: The row's.
            optimizer: Whose steps are followed.
            row: Which.
        """
        places = self._places(model, row)
        hook = optimizer.register_step_post_hook(lambda *_: self._add_model(places, row))
        try:
            yield
        finally:
            hook.remove()

    def _places(self, model: nn.Module, row: int) -> list[_Place]:
        """Where the means of a row are, each with the module and attribute it is the mean of."""
        places = []
        for entry in self._layout.entries:
            if entry.dtype in self._means:
                mean = self._means[entry.dtype][row, entry.offset :][: entry.size]
                owner, _, name = entry.name.rpartition(".")
                places.append((mean.view(entry.shape), model.get_submodule(owner), name))
        return places

    @torch.no_grad()
    def _add_model(self, places: Sequence[_Place], row: int) -> None:
        """As ``add``, for one row, from where its model holds its weights."""
        self._n_steps[row] += 1
        share = 1 / self._n_steps[row]
        for mean, module, name in places:
            # Read anew: modules may replace their buffers.
            mean.lerp_(getattr(module, name).to(mean.dtype), share)

    @torch.no_grad()
    def read(self, weights: Matrix) -> Matrix:
        """The means of the epoch so far.

        Args:
            weights: Where the rows are now. Rows that made no step have no other mean, nor has
                what is infinite, as in masks, or was on the way.
        """
        means = weights.clone()
        stepped = torch.tensor([[n > 0] for n in self._n_steps], device=weights.device)
        for dtype, mean in self._means.items():
            block = means.blocks[dtype]
            block.copy_(torch.where(stepped & mean.isfinite(), mean.to(dtype), block))
        for name, frozen in means.frozen().items():
            frozen.copy_(weights.frozen()[name])
        return means
