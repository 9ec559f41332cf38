"""Networks that train one by one, each for itself; what they cost, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from optuna_esgd.comparison.outcome import Outcome
from optuna_esgd.errors import OptimizerError
from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.evolution.space import Value
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.blame import warn_of_failure
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.spending import counted
from optuna_esgd.trainer.task import Epoch, Task, check_fitness

Prepared = tuple[torch.optim.Optimizer, LRScheduler | None]


class Networks:
    """Trains networks one after the other, and remembers the best point any of them visited.

    Each is scored at birth and after every epoch, as individuals of the preset coevolve are: who
    searches gets the same early stopping on the validation set, and pay for it.

    Args:
        task: What is trained.
        seed: Root of every draw: starts, and the order of examples.
        device: Where to train.

    Attributes:
        n_networks: How many have begun.
        n_epochs: Epochs trained, of all networks together.
    """

    def __init__(self, task: Task, *, seed: int, device: torch.device) -> None:
        self._task = task
        self._seed = seed
        self._device = device
        self._best_fitness = math.inf
        self._best_model: Mapping[str, torch.Tensor] | None = None
        self._n_gradients = self._n_forwards = self._n_evaluations = 0
        self.n_networks = 0
        self.n_epochs = 0

    def train(
        self, prepare: Callable[[nn.Module], Prepared], *, gradients_per_step: int = 1
    ) -> Iterator[float]:
        """Train one more network, for as long as the caller goes on.

        Args:
            prepare: Makes its optimizer, and the schedule that is stepped after each epoch.
            gradients_per_step: What a step without a closure costs.

        Yields:
            Its fitness after each epoch, lower is better; inf if it has diverged.
        """
        number, self.n_networks = self.n_networks, self.n_networks + 1
        with seeded(derive_seed(self._seed, "network", number)):
            model = self._task.build_model().to(self._device)
        optimizer, schedule = prepare(model)
        self._score(model)
        at = 0
        while True:
            epoch = Epoch(
                generation=0,
                individual=number,
                number=at,
                seed=derive_seed(self._seed, "network", number, "epoch", at),
                device=self._device,
            )
            self._train_epoch(model, optimizer, epoch, gradients_per_step)
            if schedule is not None:
                schedule.step()
            at += 1
            yield self._score(model)

    def outcome(self) -> Outcome:
        """The best point visited, and what all of them have cost."""
        with seeded(self._seed):
            model = self._task.build_model().to(self._device)
        if self._best_model is not None:
            model.load_state_dict(self._best_model)
        return Outcome(
            model, self._best_fitness, self._n_gradients, self._n_forwards, self._n_evaluations
        )

    def _train_epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        epoch: Epoch,
        gradients_per_step: int,
    ) -> None:
        reported = None
        with seeded(epoch.seed), counted(optimizer, gradients_per_step) as spending:
            model.train()
            try:
                reported = self._task.train_epoch(model, optimizer, epoch)
            except OptimizerError as error:
                warn_of_failure(type(optimizer).__name__, error)
        self._n_gradients += spending.n_gradients if reported is None else reported
        self._n_forwards += spending.n_forwards
        self.n_epochs += 1

    def _score(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad(), seeded(self._seed):
            fitness = check_fitness(self._task.fitness(model), maximize=False)
        self._n_evaluations += 1
        if fitness < self._best_fitness:
            self._best_fitness = fitness
            self._best_model = {
                name: tensor.detach().clone() for name, tensor in model.state_dict().items()
            }
        return fitness


def with_cosine(
    species: Species, hyperparameters: Mapping[str, Value], n_epochs: int
) -> Callable[[nn.Module], Prepared]:
    """A species' optimizer whose learning rate, if it has one, falls to 0 along a cosine."""

    def prepare(model: nn.Module) -> Prepared:
        trainable = [one for one in model.parameters() if one.requires_grad]
        optimizer = species.build(trainable, hyperparameters)
        if not all("lr" in group for group in optimizer.param_groups):
            return optimizer, None
        return optimizer, CosineAnnealingLR(optimizer, n_epochs)

    return prepare
