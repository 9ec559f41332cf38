"""What optimizers ask of a supervised task: the loss of one model on its own mini-batches."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from optuna_esgd.genome.keyed_randomness import KeyedDropout
from optuna_esgd.optim.closure import Closure
from optuna_esgd.trainer.task import Epoch
from optuna_esgd.trainer.training_batches import TrainingBatches


class SupervisedClosure(Closure):
    """The loss of one model on its own mini-batches, without end.

    Attributes:
        n_advances: How many mini-batches are done with.
        has_failed: Whether model, loss or data raised.
    """

    def __init__(
        self,
        batches: TrainingBatches,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        epoch: Epoch,
        autocast: Callable[[torch.device], torch.autocast],
    ) -> None:
        self._source = batches
        self._autocast = autocast
        self._model = model
        self._optimizer = optimizer
        self._device = epoch.device
        self._seed = torch.tensor(epoch.seed, device=epoch.device)
        laps = (batches.lap(number) for number in itertools.count())
        self._batches = itertools.chain.from_iterable(laps)
        self._batch: tuple[Any, Any] | None = None
        self.n_advances = 0
        self.has_failed = False
        self.key = self._seed

    def __call__(self) -> Tensor:
        """Loss and gradients."""
        with self._noting_failure(), torch.enable_grad():
            self._optimizer.zero_grad()
            loss = self._evaluate()
            loss.backward()
            return loss.detach()

    def loss(self) -> Tensor:
        """Loss alone."""
        with self._noting_failure(), torch.no_grad():
            return self._evaluate()

    def advance(self) -> None:
        """Go on to the next mini-batch, which is fetched when it is needed."""
        self._batch = None
        self.n_advances += 1
        self.key = self._seed + self.n_advances

    def _evaluate(self) -> Tensor:
        if self._batch is None:
            self._batch = next(self._batches)
        inputs, targets = self._batch
        with self._autocast(self._device), KeyedDropout(self._seed + self.n_advances):
            return self._source.loss(self._model(inputs), targets)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.has_failed = True
            raise
