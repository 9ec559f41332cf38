"""One model on many rows of weights at once (torch.func), and whether that can be done."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from optuna_esgd.errors import EsgdError
from optuna_esgd.genome.keyed_randomness import KeyedDropout
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.optim.rule import Rule
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.supervised import Criterion, SupervisedTask
from optuna_esgd.trainer.task import evaluation_mode
from optuna_esgd.trainer.tracing import N_CALLS_BEFORE_TRACING, Replayed

_logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]

# Far above the rounding of bfloat16, far below what another computation would give.
_TOLERANCE = 0.05


class BatchedModel:
    """One model's forward and backward pass over many rows of weights at once.

    Args:
        task: Whose loss and metric are computed.
        model: Copied; its weights do not matter.
        device: Where.
        n_calls: Of ``gradients`` with the same shapes, before these are traced.
    """

    def __init__(
        self,
        task: SupervisedTask,
        model: nn.Module,
        device: torch.device,
        n_calls: int = N_CALLS_BEFORE_TRACING,
    ) -> None:
        self._task = task
        self._training_model = copy.deepcopy(model).to(device).train()
        self._evaluation_model = copy.deepcopy(model).to(device).eval()
        self._gradients = vmap(grad_and_value(self._loss, has_aux=True))
        self._replayed_gradients = Replayed(self.pure_gradients, n_calls)
        self._forward = vmap(self._loss)
        # Not replayed: what is not mapped over, such as targets, metrics may turn into numbers.
        self._criterion = vmap(self._evaluate, in_dims=(0, None, None))

    def gradients(
        self, weights: Matrix, inputs: Tensor, targets: Tensor, keys: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Gradients of every row on its own batch; running statistics advance in ``weights``.

        Args:
            weights: (rows, ...) of the model.
            inputs: (rows, batch, ...) inputs.
            targets: (rows, batch, ...) targets.
            keys: (rows,) int64, what each row's dropout masks are drawn from.

        Returns:
            name -> (rows, *shape) gradients, and (rows,) losses.
        """
        buffers = weights.buffers()
        gradients: Tensors
        losses: Tensor
        gradients, losses, advanced = self._replayed_gradients(
            weights.parameters(), weights.frozen(), buffers, inputs, targets, keys
        )
        for name, value in advanced.items():
            buffers[name].copy_(value)
        return gradients, losses

    def pure_gradients(
        self,
        parameters: Tensors,
        frozen: Tensors,
        buffers: Tensors,
        inputs: Tensor,
        targets: Tensor,
        keys: Tensor,
    ) -> tuple[Tensors, Tensor, Tensors]:
        """The same, changing nothing: gradients, losses, and buffers as they would become."""
        gradients, (losses, advanced) = self._gradients(
            parameters, frozen, buffers, inputs, targets, keys
        )
        return gradients, losses, advanced

    def batch_gradients(
        self, weights: Matrix, indices: Tensor, keys: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses and gradients of every row on its own batch of the task's training examples.

        Args:
            weights: (rows, ...) of the model; running statistics advance.
            indices: (rows, batch) which examples are whose.
            keys: As above.

        Returns:
            (rows,) losses, and (rows, n_trainable) gradients of each block.
        """
        gradients, losses = self.gradients(weights, *self._pick(indices), keys)
        return losses, weights.layout.flatten_trainable(gradients)

    def batch_losses(self, weights: Matrix, indices: Tensor, keys: Tensor) -> Tensor:
        """The losses alone."""
        return self.losses(weights, *self._pick(indices), keys)

    def rule(self, rule: Rule) -> Rule:
        """The rule by which rows are updated, given that of their species."""
        return rule

    def _pick(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = self._task.train.on(indices.device)
        return pick(inputs, indices), pick(targets, indices)

    def losses(self, weights: Matrix, inputs: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
        """(rows,) losses without gradients; arguments and running statistics as above."""
        buffers = weights.buffers()
        with torch.no_grad():
            losses, advanced = self._forward(
                weights.parameters(), weights.frozen(), buffers, inputs, targets, keys
            )
        for name, value in advanced.items():
            buffers[name].copy_(value)
        result: Tensor = losses
        return result

    def criterion(self, weights: Matrix, inputs: Tensor, targets: Tensor) -> Tensor:
        """(rows,) metric or loss of every row on one and the same batch."""
        state = {**weights.parameters(), **weights.frozen(), **weights.buffers()}
        values: Tensor = self._criterion(state, inputs, targets)
        return values

    def _loss(
        self,
        parameters: Tensors,
        frozen: Tensors,
        buffers: Tensors,
        inputs: Tensor,
        targets: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensors]:
        advanced = {name: value.clone() for name, value in buffers.items()}
        state = {**parameters, **frozen, **advanced}
        with self._task.autocast(inputs.device), KeyedDropout(key):
            outputs = functional_call(self._training_model, state, (inputs,))
            return self._task.loss(outputs, targets), advanced

    def _evaluate(self, state: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        criterion: Criterion = self._task.metric or self._task.loss
        with self._task.autocast(inputs.device):
            outputs = functional_call(self._evaluation_model, state, (inputs,))
            return torch.as_tensor(criterion(outputs, targets), device=inputs.device)


def pick(examples: Tensor, indices: Tensor) -> Tensor:
    """``examples[indices]``, copied example by example."""
    picked = examples.index_select(0, indices.reshape(-1))
    return picked.view(*indices.shape, *examples.shape[1:])


def copied(
    task: SupervisedTask,
    model: nn.Module,
    device: torch.device,
    n_calls: int = N_CALLS_BEFORE_TRACING,
) -> BatchedModel | None:
    """The model batched; None if it cannot be copied, as with ``weight_norm`` or a lock in it."""
    try:
        return BatchedModel(task, model, device, n_calls=n_calls)
    except Exception:
        _logger.debug("The model cannot be copied.", exc_info=True)
        return None


def why_not_batched(
    task: SupervisedTask, model: BatchedModel | None, layout: Layout, device: torch.device
) -> tuple[str | None, str | None]:
    """Try a batch of a few rows, in training and in evaluation, against plain PyTorch.

    Returns:
        Why training, and why evaluation, must go row by row; None where they need not.
    """
    if model is None:
        reason = "copy.deepcopy cannot copy it"
        return reason, reason
    if task.train.tensors is None or task.validation.tensors is None:
        reason = "the examples are a Dataset that is asked for each item, not tensors"
        return reason, reason
    rows_only = task.why_row_by_row()
    plain = task.build_model().to(device)
    born = Matrix.zeros(layout, 1, device)
    born.take_from(plain, 0)
    inputs, targets = (part[:4] for part in task.train.on(device))

    def alike(n_rows: int) -> Matrix:
        born.load_into(plain, 0)  # whose buffers may have moved on
        weights = Matrix.zeros(layout, n_rows, device)
        weights.copy_rows(born, [0] * n_rows, range(n_rows))
        return weights

    def train(n_rows: int) -> None:
        moved = alike(n_rows)
        batches = torch.stack([inputs] * n_rows), torch.stack([targets] * n_rows)
        keys = torch.ones(n_rows, dtype=torch.int64, device=device)
        gradients, losses = model.gradients(moved, *batches, keys)
        loss = _plain_loss(task, plain, inputs, targets)
        trainable = {name: p for name, p in plain.named_parameters() if p.requires_grad}
        expected = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
        _check_agrees("loss", losses[0], loss)
        for name, gradient in zip(trainable, expected, strict=True):
            if gradient is not None:
                _check_agrees(f"gradient of {name}", gradients[name][0], gradient)
        advanced = dict(plain.named_buffers())
        for name, buffer in moved.buffers().items():
            _check_agrees(f"buffer {name}", buffer[0].double(), advanced[name].double())

    def evaluate(n_rows: int) -> None:
        criterion = task.metric or task.loss
        weights = alike(n_rows)
        with torch.no_grad():
            values = model.criterion(weights, inputs, targets)
            with evaluation_mode(plain), task.autocast(device):
                expected = torch.as_tensor(criterion(plain(inputs), targets), device=device)
        if values.shape != (n_rows,):
            raise RuntimeError(f"the criterion gave shape {tuple(values.shape)[1:]}, not a scalar")
        _check_agrees("criterion", values[0], expected)

    one_by_one = task.why_scored_one_by_one()
    return rows_only or _reason(train), one_by_one or _reason(evaluate)


def why_not_together(species: Mapping[str, Species]) -> str | None:
    """Which species need a model for each individual; None if none of them does."""
    names = [name for name, one in species.items() if one.listens_to_layers]
    return f"species {', '.join(names)} listens to the layers of one model" if names else None


def _check_agrees(what: str, batched: Tensor, plain: Tensor) -> None:
    """Refuse a batched result that is more than rounding away from the plain one."""
    if plain.numel() == 0:
        return
    difference = float((batched - plain).abs().max())
    if difference > _TOLERANCE * max(1e-3, float(plain.abs().max())):
        raise RuntimeError(f"the batched {what} differs from the plain one by {difference:.2g}")


def _plain_loss(task: SupervisedTask, plain: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    plain.train()
    with (
        torch.enable_grad(),
        task.autocast(inputs.device),
        KeyedDropout(torch.tensor(1, device=inputs.device)),
    ):
        return task.loss(plain(inputs), targets)


def _reason(attempt: Callable[[int], None]) -> str | None:
    """Run an attempt; say why it failed, or that torch falls back to a slow loop inside.

    With two rows, then three: what a forward pass leaves in the model, outside of its buffers,
    is of as many rows as passed, and the next pass may read it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for n_rows in (2, 3):
                attempt(n_rows)
        except EsgdError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever vmap cannot take, rows can)
            text = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
            return f"{type(error).__name__}: {text.rstrip('.')}"
    slow = [str(one.message) for one in caught if "performance drop" in str(one.message)]
    return slow[0].split(". ")[0].rstrip(".") if slow else None
