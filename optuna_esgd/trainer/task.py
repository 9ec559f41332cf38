"""What is trained: a model, one epoch of training, and its fitness."""

from __future__ import annotations

import abc
import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from optuna_esgd.errors import TaskError
from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.space import Space, Value
from optuna_esgd.trainer.spending import Spending

if TYPE_CHECKING:
    from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Where in the run an epoch of training is, and its randomness.

    Attributes:
        generation: From 0.
        individual: Number of the individual within its generation.
        number: Epoch within the SGD step, from 0.
        n_epochs: Epochs in the SGD step.
        seed: 63 bits that belong to this epoch of this individual alone. Derive every random
            draw (data order, dropout, augmentation) from it and runs can be repeated bit by bit.
        hyperparameters: What the individual trains with.
        device: Where the model is.
        memory: What earlier epochs of the individual have left, by name: yours to change in place.
            It goes with the optimizer's state: kept, backed off, saved and inherited with it. No
            epoch may remember anything elsewhere, or it could not be repeated.
        spending: What the epoch costs. The optimizer's steps are counted by themselves; add what
            you evaluate besides them.
    """

    generation: int
    individual: int
    number: int
    seed: int
    n_epochs: int = 1
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory: dict[str, torch.Tensor] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)

    def generator(self) -> torch.Generator:
        """A CPU generator seeded with ``seed``, e.g. for a ``DataLoader``."""
        return torch.Generator("cpu").manual_seed(self.seed)


class Task(abc.ABC):
    """A training problem with a loop of your own: anything PyTorch can do.

    The global generators of torch, NumPy and ``random`` are seeded before each call, so ordinary
    dropout and augmentation repeat; seed other sources of randomness from ``epoch.seed``.
    Each epoch begins with the learning rates the trial shows: to have them fall, compute them from
    ``epoch.number`` and ``epoch.n_epochs``. Individuals train one after the other on the device of
    the worker.

    Example:
        >>> class Regression(Task):
        ...     def build_model(self):
        ...         return torch.nn.Linear(4, 1)
        ...
        ...     def train_epoch(self, model, optimizer, epoch):
        ...         for x, y in batches(epoch.generator()):
        ...             optimizer.zero_grad()
        ...             torch.nn.functional.mse_loss(model(x), y).backward()
        ...             optimizer.step()
        ...
        ...     def fitness(self, model):
        ...         return torch.nn.functional.mse_loss(model(x_validation), y_validation).item()
    """

    @property
    def space(self) -> Space:
        """Hyperparameters of the task itself, by name, inherited like those of the species.

        Override it to have them searched; ``epoch.hyperparameters`` holds an individual's values.
        """
        return {}

    @abc.abstractmethod
    def build_model(self) -> nn.Module:
        """Make a freshly initialised model; called once per founder, seeded."""

    @abc.abstractmethod
    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch
    ) -> int | None:
        """Train ``model`` in place for one epoch.

        Returns:
            Gradient evaluations spent, or None to have them counted: the optimizer's calls of a
            closure, or its steps times the species' ``gradients_per_step``.
        """

    @abc.abstractmethod
    def fitness(self, model: nn.Module) -> float:
        """Score a model in the direction of the study; must be deterministic.

        Fixed data, no augmentation; the model comes in evaluation mode and without gradients.
        NaN and infinity mean that the individual has diverged.
        """

    def describe(self) -> Mapping[str, str]:
        """What must be the same whenever a study is opened again, by name, in a few words.

        Override it to have e.g. a digest of the data compared; nothing by default.
        """
        return {}

    def calibrate(self, model: nn.Module) -> None:
        """Prepare a newly bred model before it is scored.

        Override it where a model carries running statistics (batch-norm): averaged weights need
        statistics of their own, from a fixed set of training batches.
        """
        del model


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block, and every module back into its own after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Train as usual where the caller is within ``torch.no_grad()`` or ``inference_mode()``."""

    @functools.wraps(function)
    def trains(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(mode=False), torch.enable_grad():
            return function(*args, **kwargs)

    return trains


def check_fitness(value: object, *, maximize: bool) -> float:
    """Bring what the user's code returned to an inner fitness: minimised, inf if diverged.

    Raises:
        TaskError: It is not one real number.
    """
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TaskError(
            f"Fitness must be a float (or a tensor with one element), got {value!r} of type "
            f"{type(value).__name__}. Return e.g. loss.item()."
        )
    number = float(value)
    return clean_fitness(-number if maximize else number)


def shown_value(fitness: float, *, maximize: bool) -> float:
    """The value Optuna shows for an inner fitness: the sign flips here and nowhere else."""
    if math.isinf(fitness):
        return -math.inf if maximize else math.inf
    return -fitness if maximize else fitness
