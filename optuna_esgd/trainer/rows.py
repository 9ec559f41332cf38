"""Row by row: individuals train one after the other with plain PyTorch. Works for every task."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual
from optuna_esgd.errors import OptimizerError, TaskError
from optuna_esgd.evolution.annealing import rate_factor
from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.species.base import Species
from optuna_esgd.species.state import flatten_state, restore_state
from optuna_esgd.trainer.blame import warn_of_failure
from optuna_esgd.trainer.iterate_mean import IterateMean
from optuna_esgd.trainer.rates import scaled_rates
from optuna_esgd.trainer.seeding import build_seeded, seeded
from optuna_esgd.trainer.spaces import of_species
from optuna_esgd.trainer.spending import Spending, counted
from optuna_esgd.trainer.task import Epoch, Task, check_fitness

# How the names of what epochs remember begin, among those of the optimizer's state.
_MEMORY = "memory."


class RowTraining:
    """A cohort whose rows train one by one; each row has a model and an optimizer of its own."""

    def __init__(
        self,
        task: Task,
        configuration: Configuration,
        species: Mapping[str, Species],
        individuals: Sequence[Individual],
        weights: Matrix,
        states: Sequence[Mapping[str, Tensor]],
    ) -> None:
        self.weights = weights
        self._task = task
        self._configuration = configuration
        self._species = species
        self._individuals = individuals
        self._models = [build_seeded(task, configuration, weights.device) for _ in individuals]
        self._optimizers = [self._build_optimizer(row, one) for row, one in enumerate(individuals)]
        self._memories: list[dict[str, Tensor]] = [{} for _ in individuals]
        for row, state in enumerate(states):
            self._take_up(row, state)
        self._kept_weights = weights.clone()
        self._kept_states: list[dict[str, Tensor]] = [{} for _ in individuals]
        self._mean = IterateMean(weights) if configuration.average_iterates else None

    def train_epoch(self, number: int) -> list[Spending]:
        """Let the task train each row."""
        if self._mean is not None:
            self._mean.begin()
        return [self._train_row(row, one, number) for row, one in enumerate(self._individuals)]

    def _train_row(self, row: int, one: Individual, number: int) -> Spending:
        device = self.weights.device
        seed = epoch_seed(self._configuration, one, number)
        epoch = Epoch(
            generation=one.reference.generation,
            individual=one.reference.number,
            number=number,
            n_epochs=self._configuration.n_epochs,
            seed=seed,
            hyperparameters=dict(one.hyperparameters),
            device=device,
            memory=self._memories[row],
        )
        model, optimizer = self._models[row], self._optimizers[row]
        cost = self._species[one.species].gradients_per_step
        factor = rate_factor(
            self._configuration.rate_schedule, number, self._configuration.n_epochs
        )
        spent = counted(optimizer, cost, epoch.spending)
        averaged = (
            contextlib.nullcontext()
            if self._mean is None
            else self._mean.following(model, optimizer, row)
        )
        with seeded(seed), scaled_rates(optimizer, factor), averaged, spent as spending:
            model.train()
            try:
                reported = self._task.train_epoch(model, optimizer, epoch)
            except OptimizerError as error:
                warn_of_failure(one.species, error)
                self.restore([row])
                if self._mean is not None:
                    self._mean.forget([row])
                return spending
        self.weights.take_from(model, row)
        if reported is not None:
            spending.n_gradients = reported
        return spending

    def take_weights(self) -> None:
        """Load the matrix into the models."""
        for row, model in enumerate(self._models):
            self.weights.load_into(model, row)

    def iterate_mean(self) -> Matrix | None:
        """The mean of the weights of the last epoch, if wanted."""
        return None if self._mean is None else self._mean.read(self.weights)

    def score(self, weights: Matrix | None = None) -> list[float]:
        """Let the task score each row."""
        if weights is None:
            return score_rows(self._task, self._configuration, self._models, self.weights)
        scores = score_rows(self._task, self._configuration, self._models[:1], weights)
        self.weights.load_into(self._models[0], 0)
        return scores

    def keep(self, rows: Sequence[int], weights: Matrix | None = None) -> None:
        """Copy rows and flatten their optimizers' state."""
        self._kept_weights.copy_rows(self.weights if weights is None else weights, rows, rows)
        for row in rows:
            self._kept_states[row] = self.optimizer_state(row)

    def restore(self, rows: Sequence[int]) -> None:
        """Copy the kept weights and state back."""
        self.weights.copy_rows(self._kept_weights, rows, rows)
        for row in rows:
            self._take_up(row, self._kept_states[row])

    def overwrite(self, weights: Matrix, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on from these weights and states."""
        self.weights.copy_(weights)
        for row, state in enumerate(states):
            self._take_up(row, state)

    def optimizer_state(self, row: int) -> dict[str, Tensor]:
        """The current state of the row's optimizer, and what its epochs remember."""
        memory = {_MEMORY + name: _copied(name, t) for name, t in self._memories[row].items()}
        return {**flatten_state(self._optimizers[row]), **memory}

    def _take_up(self, row: int, state: Mapping[str, Tensor]) -> None:
        """Give the row's model the row's weights, and a new optimizer and memory this state."""
        self.weights.load_into(self._models[row], row)
        self._optimizers[row] = self._build_optimizer(row, self._individuals[row])
        self._memories[row] = {
            name.removeprefix(_MEMORY): tensor.clone()
            for name, tensor in state.items()
            if name.startswith(_MEMORY)
        }
        of_optimizer = {n: tensor for n, tensor in state.items() if not n.startswith(_MEMORY)}
        restore_state(self._optimizers[row], of_optimizer)

    def _build_optimizer(self, row: int, one: Individual) -> torch.optim.Optimizer:
        parameters = [p for p in self._models[row].parameters() if p.requires_grad]
        species = self._species[one.species]
        return species.build(parameters, of_species(species, one.hyperparameters))


def _copied(name: str, tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TaskError(
            f"epoch.memory[{name!r}] must be a tensor, got {type(tensor).__name__}: it is stored "
            "with the optimizer's state."
        )
    return tensor.detach().to("cpu", copy=True)


def epoch_seed(configuration: Configuration, individual: Individual, number: int) -> int:
    """The seed of one epoch of one individual; the same in every way of training."""
    generation, individual_number = individual.reference.generation, individual.reference.number
    return derive_seed(configuration.seed, generation, individual_number, "epoch", number)


def score_rows(
    task: Task, configuration: Configuration, models: Sequence[nn.Module], weights: Matrix
) -> list[float]:
    """Score rows one by one; a single model may serve all of them."""
    scores = []
    for row in range(weights.n_rows):
        model = models[row % len(models)]
        if len(models) == 1:
            weights.load_into(model, row)
        model.eval()
        with torch.no_grad(), seeded(configuration.seed):
            value: Any = task.fitness(model)
        scores.append(check_fitness(value, maximize=configuration.maximize))
    return scores
