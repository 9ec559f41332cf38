"""Batched: all rows of a cohort train as one computation (torch.func)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual
from optuna_esgd.evolution.annealing import rate_factor
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.batched_model import BatchedModel
from optuna_esgd.trainer.compiled_step import CompiledSteps
from optuna_esgd.trainer.evaluations import CohortEvaluations
from optuna_esgd.trainer.iterate_mean import IterateMean
from optuna_esgd.trainer.optimizers import CohortOptimizers
from optuna_esgd.trainer.rows import epoch_seed
from optuna_esgd.trainer.spending import Spending
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import check_fitness

Tensors = dict[str, Tensor]


class BatchedTraining:
    """A cohort of a supervised task that trains as one computation."""

    def __init__(  # noqa: PLR0913, PLR0917  (all that a cohort is made of)
        self,
        task: SupervisedTask,
        model: BatchedModel,
        configuration: Configuration,
        species: Mapping[str, Species],
        individuals: Sequence[Individual],
        weights: Matrix,
        states: Sequence[Mapping[str, Tensor]],
        score: Callable[[Matrix], list[float]],
        steps: CompiledSteps | None = None,
    ) -> None:
        self.weights = weights
        self._task = task
        self._model = model
        self._configuration = configuration
        self._individuals = individuals
        self._optimizers = CohortOptimizers(
            weights, individuals, species, states, model.rule, steps
        )
        self._score = score
        self._kept_weights = weights.clone()
        self._mean = IterateMean(weights) if configuration.average_iterates else None

    def train_epoch(self, number: int) -> list[Spending]:
        """One pass of every row over the training examples, each in its own order."""
        seeds = [epoch_seed(self._configuration, one, number) for one in self._individuals]
        spent = [Spending() for _ in seeds]
        n_batches = self._task.train.n_batches
        self._optimizers.scale_rates(
            rate_factor(self._configuration.rate_schedule, number, self._configuration.n_epochs)
        )
        if self._mean is not None:
            self._mean.begin()
        for party in self._optimizers.parties:
            rows = party.rows
            evaluations = CohortEvaluations(
                self._task, self._model, self.weights.rows(rows), seeds[rows.start : rows.stop]
            )
            while evaluations.n_advances < n_batches and party.is_running:
                party.step(evaluations)
                if self._mean is not None:
                    self._mean.add(self.weights, rows)
                evaluations.advance()
            for row in rows:
                spent[row] = evaluations.spending
        failed = self._optimizers.take_failed_rows()
        self.restore(failed)
        if self._mean is not None:
            self._mean.forget(failed)
        return spent

    def take_weights(self) -> None:
        """Nothing to do: the model sees the matrix itself."""

    def iterate_mean(self) -> Matrix | None:
        """The mean of the weights of the last epoch, if wanted."""
        return None if self._mean is None else self._mean.read(self.weights)

    def score(self, weights: Matrix | None = None) -> list[float]:
        """Fitness of every row."""
        return self._score(self.weights if weights is None else weights)

    def keep(self, rows: Sequence[int], weights: Matrix | None = None) -> None:
        """Copy rows of weights and optimizer state."""
        self._kept_weights.copy_rows(self.weights if weights is None else weights, rows, rows)
        self._optimizers.keep(rows)

    def restore(self, rows: Sequence[int]) -> None:
        """Copy the kept rows back."""
        self.weights.copy_rows(self._kept_weights, rows, rows)
        self._optimizers.restore(rows)

    def overwrite(self, weights: Matrix, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on from these weights and states."""
        self.weights.copy_(weights)
        for row, state in enumerate(states):
            self._optimizers.overwrite(row, state)

    def optimizer_state(self, row: int) -> Tensors:
        """The current state of the row's optimizer."""
        return self._optimizers.row_state(row)


def score_batched(
    task: SupervisedTask, model: BatchedModel, configuration: Configuration, weights: Matrix
) -> list[float]:
    """Fitness of all rows in one pass over the validation examples."""
    totals = torch.zeros(weights.n_rows, dtype=torch.float64, device=weights.device)
    with torch.no_grad():
        for inputs, targets in task.validation.batches(weights.device):
            totals += model.criterion(weights, inputs, targets).double() * len(targets)
    means = (totals / len(task.validation)).tolist()
    return [check_fitness(mean, maximize=configuration.maximize) for mean in means]
