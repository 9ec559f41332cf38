"""What a mutation of bred weights is, and what it may ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Landscape(Protocol):
    """What a mutation may ask about the weights a model has now.

    Every answer is a function of the weights and the arguments alone, so that an offspring bred
    again is the same bit by bit.
    """

    def fitness(self, model: nn.Module) -> float:
        """What the model would score as an offspring; lower is better, inf = diverged."""
        ...

    def batch_gradients(
        self, model: nn.Module, n_batches: int, seed: int
    ) -> Iterator[list[Tensor]]:
        """Gradients of the training loss on mini-batches drawn by ``seed``.

        In evaluation mode, with running statistics of the model's own: no dropout.

        Yields:
            For each batch, one tensor per trainable parameter, in the model's order.
        """
        ...


@runtime_checkable
class Mutation(Protocol):
    """Moves the weights of an offspring.

    A mutation must be a function of the model's weights, σ, the landscape's answers and the seed
    alone. Its ``repr`` is kept with the study and compared when it is opened again.

    Attributes:
        n_gradients: Gradient evaluations that one offspring costs.
        n_evaluations: Fitness evaluations that one offspring costs, besides its own scoring.
    """

    @property
    def n_gradients(self) -> int:
        """See the class."""
        ...

    @property
    def n_evaluations(self) -> int:
        """See the class."""
        ...

    def mutate(self, model: nn.Module, sigma: float, landscape: Landscape, *, seed: int) -> None:
        """Change the model's trainable parameters, or what else is inherited, in place.

        Args:
            model: With the mean of the parents' weights.
            sigma: σ_k of this generation, above 0.
            landscape: See there.
            seed: The stream of this offspring's mutation.
        """
        ...


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters a mutation may move, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def seeded_generator(model: nn.Module, seed: int) -> torch.Generator:
    """A generator on the model's device."""
    return torch.Generator(trainable(model)[0].device).manual_seed(seed)
