"""Binary tournament: of two contestants the loser becomes a changed copy of the winner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.fitness import FloatArray, clean_fitness


class Match(NamedTuple):
    """Who won a tournament, and who lost it."""

    winner: int
    loser: int


def draw_contestants(n_individuals: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw two distinct individuals, evenly.

    Raises:
        ConfigurationError: There are fewer than two.
    """
    if n_individuals < 2:
        raise ConfigurationError(f"A tournament needs two individuals, got {n_individuals}.")
    first, second = rng.choice(n_individuals, size=2, replace=False).tolist()
    return first, second


def decide_tournament(
    contestants: tuple[int, int], fitness: FloatArray | Sequence[float]
) -> Match:
    """Say who of two contestants is fitter; a tie goes to the one that was drawn first.

    Args:
        contestants: Indices of both.
        fitness: Of these two, in their order; lower is better, NaN and inf are the worst.
    """
    first, second = contestants
    if clean_fitness(float(fitness[1])) < clean_fitness(float(fitness[0])):
        return Match(winner=second, loser=first)
    return Match(winner=first, loser=second)
