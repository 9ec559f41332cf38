"""The SGD step of a cohort with back-off (Cui et al. 2018, Algorithm 1, first inner loop)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual
from optuna_esgd.evolution.back_off import BackOffRule
from optuna_esgd.genome.matrix import Matrix


class Training(Protocol):
    """A cohort in training: its weights, and the optimizers that change them in place."""

    weights: Matrix

    def train_epoch(self, number: int) -> list[int]:
        """Train every row for one epoch; returns the gradient evaluations of each."""
        ...

    def take_weights(self) -> None:
        """Go on from what somebody else has written into ``weights``."""
        ...

    def score(self) -> list[float]:
        """Fitness of every row, lower is better, inf = diverged."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Copy these rows, weights and optimizer state, as the points to return to."""
        ...

    def restore(self, rows: Sequence[int]) -> None:
        """Return these rows to their kept points."""
        ...

    def optimizer_state(self, row: int) -> dict[str, Tensor]:
        """What the row's optimizer would carry on; empty if it has none."""
        ...


@dataclass
class Progress:
    """How one individual's SGD step went; see ``engine.individual.Individual``."""

    birth_fitness: float
    fitness: float = float("inf")
    n_back_offs: int = 0
    n_epochs: int = 0
    n_gradients: int = 0
    n_evaluations: int = 0


def run_sgd_step(
    training: Training, individuals: Sequence[Individual], configuration: Configuration
) -> list[Progress]:
    """Train a cohort for K_s epochs; nobody ends worse than it was born.

    Args:
        training: The cohort at its birth weights; ends at the kept points.
        individuals: Who is in which row.
        configuration: K_s and the reading of back-off.

    Returns:
        One record per row.
    """
    progress = _score_births(training, individuals)
    rules = [BackOffRule(configuration.back_off, one.birth_fitness) for one in progress]
    training.keep(range(len(progress)))
    for number in range(configuration.n_epochs):
        n_gradients = training.train_epoch(number)
        is_last = number + 1 == configuration.n_epochs
        kept, restored = [], []
        for row, fitness in enumerate(training.score()):
            progress[row].n_gradients += n_gradients[row]
            progress[row].n_epochs += 1
            progress[row].n_evaluations += 1
            is_kept = rules[row].is_kept(fitness)
            if is_kept:
                kept.append(row)
            if rules[row].must_restore(kept=is_kept, is_last_epoch=is_last):
                restored.append(row)
        training.keep(kept)
        training.restore(restored)
    for one, rule in zip(progress, rules, strict=True):
        one.fitness, one.n_back_offs = rule.best_fitness, rule.n_back_offs
    return progress


def _score_births(training: Training, individuals: Sequence[Individual]) -> list[Progress]:
    """Take birth fitness from the plan; founders have none yet and are scored here."""
    if all(one.birth_fitness is not None for one in individuals):
        return [Progress(float(one.birth_fitness or 0.0)) for one in individuals]
    return [Progress(fitness, n_evaluations=1) for fitness in training.score()]
