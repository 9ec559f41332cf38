"""Diversity operators within the SGD step of a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.operators import ClusterSuppression, Diversity, ElasticCoupling
from optuna_esgd.trainer.progress import Progress
from optuna_esgd.trainer.sgd import Training
from optuna_esgd.trainer.spending import Spending


def check_cohort(diversity: Diversity | None, cohort_size: int) -> None:
    """Refuse a diversity operator where everyone trains alone.

    Raises:
        ConfigurationError: See above.
    """
    if diversity is not None and cohort_size < 2:
        raise ConfigurationError(
            f"{diversity!r} works among individuals that train together, but cohort_size is "
            f"{cohort_size}. Give ESGDTrainer(cohort_size=...) of 2 or more."
        )


def coupled(training: Training, diversity: Diversity | None) -> Training:
    """The training itself, or coupled where that is wanted."""
    if isinstance(diversity, ElasticCoupling):
        return CoupledTraining(training, diversity)
    return training


class CoupledTraining:
    """A cohort whose rows are drawn together before each epoch; else as the one inside."""

    def __init__(self, training: Training, coupling: ElasticCoupling) -> None:
        self.weights = training.weights
        self._training = training
        self._coupling = coupling

    def train_epoch(self, number: int) -> list[Spending]:
        """Couple, then train."""
        self._coupling.pull(self.weights.trainable())
        self._training.take_weights()
        return self._training.train_epoch(number)

    def take_weights(self) -> None:
        """Pass on."""
        self._training.take_weights()

    def iterate_mean(self) -> Matrix | None:
        """Pass on."""
        return self._training.iterate_mean()

    def score(self, weights: Matrix | None = None) -> list[float]:
        """Pass on."""
        return self._training.score(weights)

    def keep(self, rows: Sequence[int], weights: Matrix | None = None) -> None:
        """Pass on."""
        self._training.keep(rows, weights)

    def restore(self, rows: Sequence[int]) -> None:
        """Pass on."""
        self._training.restore(rows)

    def overwrite(self, weights: Matrix, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Pass on."""
        self._training.overwrite(weights, states)

    def optimizer_state(self, row: int) -> dict[str, Tensor]:
        """Pass on."""
        return self._training.optimizer_state(row)


def suppress(
    suppression: ClusterSuppression, births: Matrix, ends: Matrix, progress: Sequence[Progress]
) -> list[int]:
    """Take the update of less fit individuals of a cluster back.

    Args:
        suppression: Says whose.
        births: The cohort's weights at birth.
        ends: Its weights now; the rows of who is suppressed become those of ``births``.
        progress: How the SGD step of each row went; the suppressed back off once more.

    Returns:
        The rows of who is suppressed: optimizer state is to be that of the birth, too.
    """
    fitness = [one.fitness for one in progress]
    rows = suppression.suppressed(births.parameters(), ends.parameters(), fitness)
    ends.copy_rows(births, rows, rows)
    for row in rows:
        progress[row].fitness = progress[row].birth_fitness
        progress[row].n_back_offs += 1
    return rows
