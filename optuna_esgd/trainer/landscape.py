"""A task as the landscape that mutations ask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators import Mutation, PathMutation
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task, check_fitness, evaluation_mode


class TaskLandscape:
    """Fitness and mini-batch gradients of a task; see ``operators.mutation.Landscape``."""

    def __init__(self, task: Task, configuration: Configuration) -> None:
        self._task = task
        self._configuration = configuration

    def fitness(self, model: nn.Module) -> float:
        """Fitness as an offspring would score: with running statistics of its own."""
        self._calibrate(model)
        with evaluation_mode(model), torch.no_grad(), seeded(self._configuration.seed):
            value = self._task.fitness(model)
        return check_fitness(value, maximize=self._configuration.maximize)

    def batch_gradients(
        self, model: nn.Module, n_batches: int, seed: int
    ) -> Iterator[list[Tensor]]:
        """Gradients of the training loss, in passes over the training examples."""
        task = self._task
        if not isinstance(task, SupervisedTask):
            raise TypeError(f"{type(task).__name__} declares no training loss.")
        self._calibrate(model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device = parameters[0].device
        n_done = 0
        while n_done < n_batches:
            for inputs, targets in task.train.batches(device, seed + n_done):
                with evaluation_mode(model), torch.enable_grad(), task.autocast(device):
                    loss = task.loss(model(inputs), targets)
                # A parameter that the loss does not depend on has a gradient of zeros.
                yield list(torch.autograd.grad(loss, parameters, materialize_grads=True))
                n_done += 1
                if n_done == n_batches:
                    return

    def _calibrate(self, model: nn.Module) -> None:
        with torch.no_grad(), seeded(self._configuration.seed):
            self._task.calibrate(model)


def check_can_move(mutation: Mutation | None, model: nn.Module) -> None:
    """Refuse a mutation that finds nothing in the model to mutate.

    Raises:
        ConfigurationError: See above.
    """
    if isinstance(mutation, PathMutation):
        mutation.check_model(model)


def check_can_ask(mutation: Mutation | None, task: Task) -> None:
    """Refuse a mutation that needs gradients of a task that declares no loss.

    Raises:
        ConfigurationError: See above.
    """
    if mutation is None or not mutation.n_gradients or isinstance(task, SupervisedTask):
        return
    raise ConfigurationError(
        f"{mutation!r} needs gradients of the training loss, which {type(task).__name__} keeps to "
        "itself. Declare the task as a SupervisedTask, or use 'gaussian' or 'metropolis'."
    )
