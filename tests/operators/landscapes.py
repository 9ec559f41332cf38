"""Landscapes whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class Vector(nn.Module):
    """A model that is nothing but its weights, two of which are frozen."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(weights.clone())
        self.fixed = nn.Parameter(torch.ones(2, dtype=weights.dtype), requires_grad=False)


class KnownLandscape:
    """Fitness as given; gradients as given, in turn, whatever the seed."""

    def __init__(
        self,
        fitness: Callable[[Tensor], float] = lambda _: 0.0,
        gradients: Tensor | None = None,
    ) -> None:
        self._fitness = fitness
        self._gradients = gradients
        self.n_evaluations = 0
        self.n_gradients = 0

    def fitness(self, model: nn.Module) -> float:
        self.n_evaluations += 1
        assert isinstance(model, Vector)
        return self._fitness(model.x.detach())

    def batch_gradients(
        self, model: nn.Module, n_batches: int, seed: int
    ) -> Iterator[list[Tensor]]:
        assert self._gradients is not None
        for gradient in self._gradients[:n_batches]:
            self.n_gradients += 1
            yield [gradient]
