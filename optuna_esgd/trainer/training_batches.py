"""The batches of one epoch of one individual, and their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from optuna_esgd.errors import TaskError
from optuna_esgd.trainer.examples import ExampleSet
from optuna_esgd.trainer.guidance import BatchSampler, ErrorDriven
from optuna_esgd.trainer.task import Epoch

Loss = Callable[[Any, Any], Tensor]


class TrainingBatches:
    """Every example once, in the epoch's own order."""

    def __init__(self, examples: ExampleSet, loss: Loss, epoch: Epoch) -> None:
        self._examples = examples
        self._loss = loss
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches in the epoch."""
        return self._examples.n_batches

    def lap(self, number: int) -> Iterator[tuple[Any, Any]]:
        """Inputs and targets of each batch of one pass; an epoch is pass 0."""
        return self._examples.batches(self._epoch.device, self._epoch.seed, number)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of the current batch."""
        return self._loss(outputs, targets)


class SampledBatches(TrainingBatches):
    """The batches a sampler chooses; it is told errors, and weighs losses, if it wants to."""

    def __init__(
        self, examples: ExampleSet, loss: Loss, epoch: Epoch, sampler: BatchSampler
    ) -> None:
        super().__init__(examples, loss, epoch)
        self._sampler = sampler
        self._driven = sampler if isinstance(sampler, ErrorDriven) else None
        self._indices: list[int] = []
        self._weights: Tensor | None = None

    def __len__(self) -> int:
        """Batches in the epoch."""
        return len(self._sampler)

    def lap(self, number: int) -> Iterator[tuple[Any, Any]]:
        """Inputs and targets of each batch; the sampler goes on where it stopped."""
        del number
        for indices in self._sampler:
            self._indices = list(indices)
            # Now: they belong to the probabilities the batch was drawn with.
            self._weights = None if self._driven is None else self._driven.weights(self._indices)
            yield self._examples.take(
                torch.tensor(self._indices, device="cpu"), self._epoch.device
            )

    @torch.no_grad()
    def measure_errors(self, model: nn.Module, batch_size: int) -> bool:
        """Tell the sampler the loss of every example, if it wants to know; whether it did.

        Args:
            model: In evaluation mode.
            batch_size: Examples per forward pass.
        """
        if self._driven is None:
            return False
        for indices in self._examples.everyone.split(batch_size):
            inputs, targets = self._examples.take(indices, self._epoch.device)
            errors = example_losses(self._loss, model(inputs), targets)
            self._driven.update(indices.tolist(), errors)
        return True

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean of the weighed losses, whose errors the sampler learns."""
        if self._driven is None or self._weights is None:
            return super().loss(outputs, targets)
        losses = example_losses(self._loss, outputs, targets)
        self._driven.update(self._indices, losses)
        return (losses * self._weights.to(losses)).mean()


def example_losses(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """(examples,) the loss of each example of a batch on its own.

    Raises:
        TaskError: The loss cannot be taken apart: outputs or targets are no tensors, or it is
            not written in functions that torch can map over examples.
    """

    def of_one(output: Tensor, target: Tensor) -> Tensor:
        return loss(output.unsqueeze(0), target.unsqueeze(0))

    try:
        losses: Tensor = torch.func.vmap(of_one)(outputs, targets)
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise TaskError(
            "Sampling by error needs the loss of each example, but loss(outputs, targets) cannot "
            f"be mapped over examples: {error}"
        ) from error
    return losses
