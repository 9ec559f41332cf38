"""The loss of some rows of a cohort, each row on its own mini-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.optim.closure import Closure
from optuna_esgd.trainer.batched_model import BatchedModel, pick
from optuna_esgd.trainer.spending import Spending
from optuna_esgd.trainer.supervised import SupervisedTask


class CohortEvaluations:
    """Evaluates the loss of rows where their weights are, as the rule of a species asks for it.

    Args:
        task: Where the examples are from.
        model: The forward and backward pass.
        weights: The rows, which may be a view.
        seeds: Of the present epoch, one per row: data order, dropout masks and the optimizers'
            own draws are functions of them.

    Attributes:
        n_advances: How many mini-batches are done with.
        spending: What each of the rows has cost so far.
        has_failed: Whether model, loss or data raised.
    """

    def __init__(
        self,
        task: SupervisedTask,
        model: BatchedModel,
        weights: Matrix,
        seeds: Sequence[int],
    ) -> None:
        self.weights = weights
        self.n_advances = 0
        self.spending = Spending()
        self.has_failed = False
        self._examples = task.train
        self._n_batches = task.train.n_batches
        self._model = model
        self._seeds = seeds
        self._keys = torch.tensor(list(seeds), device=weights.device)
        self._lap = -1
        self._indices: list[Tensor] = []

    @property
    def key(self) -> Tensor:
        """(rows, 1) int64: what random draws of the coming step are a function of."""
        return self.dropout_keys.unsqueeze(1)

    @property
    def dropout_keys(self) -> Tensor:
        """(rows,) int64: what dropout masks of the present mini-batch are a function of."""
        return self._keys + self.n_advances

    @property
    def batch_size(self) -> int:
        """Examples of each row in the present mini-batch."""
        return self._present_indices().shape[1]

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """(rows, batch, ...) inputs and targets of the present mini-batch."""
        indices = self._present_indices()
        inputs, targets = self._examples.on(self.weights.device)
        return pick(inputs, indices), pick(targets, indices)

    def _present_indices(self) -> Tensor:
        """(rows, batch) which examples are in the present mini-batch of each row."""
        lap, number = divmod(self.n_advances, self._n_batches)
        if lap != self._lap:
            orders = torch.stack([self._examples.order(seed, lap) for seed in self._seeds])
            orders = orders.to(self.weights.device)
            self._lap, self._indices = lap, self._examples.cut(orders, dim=1)
        return self._indices[number]

    def gradients(self) -> tuple[Tensor, list[Tensor]]:
        """(rows, 1) losses, and (rows, n_trainable) gradients of each block."""
        self.spending.n_gradients += 1
        self.has_failed = True  # until it has not
        losses, blocks = self._model.batch_gradients(
            self.weights, self._present_indices(), self.dropout_keys
        )
        self.has_failed = False
        return losses.unsqueeze(1), blocks

    def losses(self) -> Tensor:
        """(rows, 1) losses alone."""
        self.spending.n_forwards += 1
        self.has_failed = True
        losses = self._model.batch_losses(self.weights, self._present_indices(), self.dropout_keys)
        self.has_failed = False
        return losses.unsqueeze(1)

    def advance(self) -> None:
        """Go on to the next mini-batch, past the end of the examples in another order."""
        self.n_advances += 1


class RowClosure(Closure):
    """One row's evaluations as a closure, for an optimizer of torch's kind.

    Args:
        evaluations: Of this one row.
        parameters: By name; get their ``grad`` from each evaluation.
    """

    def __init__(
        self, evaluations: CohortEvaluations, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self._evaluations = evaluations
        self._parameters = parameters
        self.key = evaluations.key.reshape(())

    def __call__(self) -> Tensor:
        """Loss and gradients."""
        with torch.no_grad():
            losses, blocks = self._evaluations.gradients()
            write_gradients(self._evaluations.weights, blocks, self._parameters)
        return losses.reshape(())

    def loss(self) -> Tensor:
        """Loss alone."""
        return self._evaluations.losses().reshape(())

    def advance(self) -> None:
        """Go on to the next mini-batch."""
        self._evaluations.advance()


def write_gradients(
    weights: Matrix, blocks: Sequence[Tensor], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Give parameters the gradients of one row: (1, n_trainable) for each block."""
    views = weights.layout.unflatten_trainable(blocks)
    for name, parameter in parameters.items():
        parameter.grad = views[name][0]
