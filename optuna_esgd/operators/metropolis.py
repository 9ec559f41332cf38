"""Mutations that are kept only if the fitness allows it.

After Whitelam, Selin, Park and Tamblyn, "Correspondence between neuroevolution and gradient
descent", Nature Communications 12, 6317 (2021), where a mutation of all weights is accepted with
the Metropolis probability; here it is a step of breeding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators.mutation import Landscape, seeded_generator, trainable


@dataclass(frozen=True)
class MetropolisMutation:
    """Proposes N(0, σ²) for all weights, ``n_proposals`` times; keeps one with probability p.

    p = min(1, exp(-β·Δf)), Δf the change of the fitness. With β = ∞ a proposal is kept if and only
    if the fitness does not get worse, and so no offspring is less fit than the plain mean of its
    parents. A proposal that is not kept leaves the weights as they were, bit by bit.

    Args:
        beta: β, above 0, in units of 1/fitness.
        n_proposals: Proposals one after the other, at least 1.

    Raises:
        ConfigurationError: A number is out of range.
    """

    beta: float = math.inf
    n_proposals: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if not self.beta > 0:
            raise ConfigurationError(f"beta must be above 0 (math.inf at most), got {self.beta}.")
        n = self.n_proposals
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigurationError(f"n_proposals must be a whole number >= 1, got {n!r}.")

    @property
    def n_gradients(self) -> int:
        """None."""
        return 0

    @property
    def n_evaluations(self) -> int:
        """The mean of the parents and each proposal."""
        return 1 + self.n_proposals

    def mutate(self, model: nn.Module, sigma: float, landscape: Landscape, *, seed: int) -> None:
        """See the class."""
        generator = seeded_generator(model, seed)
        parameters = trainable(model)
        fitness = landscape.fitness(model)
        for _ in range(self.n_proposals):
            kept = [parameter.detach().clone() for parameter in parameters]
            with torch.no_grad():
                for parameter in parameters:
                    parameter.add_(
                        torch.empty_like(parameter).normal_(generator=generator), alpha=sigma
                    )
            # Drawn in any case, so that what follows does not depend on the outcome.
            chance = float(torch.rand((), generator=generator, device=generator.device))
            proposed = landscape.fitness(model)
            if self.is_accepted(fitness, proposed, chance):
                fitness = proposed
                continue
            with torch.no_grad():
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)

    def is_accepted(self, fitness: float, proposed: float, chance: float) -> bool:
        """Whether a proposal is kept.

        Args:
            fitness: Before; lower is better, inf = diverged.
            proposed: After.
            chance: Evenly from [0, 1).
        """
        if proposed <= fitness:
            return True
        return math.isfinite(proposed) and chance < math.exp(-self.beta * (proposed - fitness))
