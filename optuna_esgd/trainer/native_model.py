"""One model on many rows of weights, computed by a kernel in C where one can be written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeGuard, get_args

import torch
from torch import Tensor, nn
from torch.func import vmap

from optuna_esgd.genome.keyed_randomness import KeyedDropout
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.native.chain import Chain, Loss, read_chain, read_loss
from optuna_esgd.native.kernel import Kernel, build_kernel
from optuna_esgd.native.source import Place
from optuna_esgd.native.updates import build_updates
from optuna_esgd.optim.rule import Rule
from optuna_esgd.trainer.batched_model import BatchedModel
from optuna_esgd.trainer.examples import ExampleSet
from optuna_esgd.trainer.native_rules import native_rule
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.tracing import N_CALLS_BEFORE_TRACING

Tensors = dict[str, Tensor]

# Of the length of a gradient: far above rounding, far below what another computation would give.
_TOLERANCE = 0.02
_N_TRIED = 70  # examples that are scored: more than a chunk, and not a multiple of one
_DISAGREES = "its kernel and plain PyTorch disagree"


class NativeModel(BatchedModel):
    """A batched model whose losses and gradients are those of a kernel, if there is one.

    A kernel computes row by row: the numbers of a row do not depend on the others.

    Args:
        task: Whose loss and metric are computed.
        model: Copied; its weights do not matter.
        layout: The model's.
        device: Where.
        n_calls: See ``BatchedModel``.

    Attributes:
        why_not_trained: Why there is no kernel for gradients; None if there is.
        why_not_scored: Why there is none for scoring; None if there is.
    """

    def __init__(
        self,
        task: SupervisedTask,
        model: nn.Module,
        layout: Layout,
        device: torch.device,
        n_calls: int = N_CALLS_BEFORE_TRACING,
    ) -> None:
        super().__init__(task, model, device, n_calls)
        builder = _Builder(task, model, layout, device)
        training, scoring = builder.training(), builder.scoring()
        updates = training if isinstance(training, str) else build_updates()
        training = updates if isinstance(updates, str) else training
        self.why_not_trained = training if isinstance(training, str) else None
        self.why_not_scored = scoring if isinstance(scoring, str) else None
        self._training = None if isinstance(training, str) else training
        self._updates = None if isinstance(updates, str) else updates
        self._scoring = None if isinstance(scoring, str) else scoring
        # Kernels read examples where they lie.
        self._examples = None if self._training is None else _in_one_piece(task, device)
        self._scores_losses = task.metric is None and builder.has_simple_loss(task.validation)
        self._criterion_of_outputs = vmap(self._of_outputs, in_dims=(0, None))

    def batch_gradients(
        self, weights: Matrix, indices: Tensor, keys: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See ``BatchedModel``."""
        if self._training is None or self._examples is None:
            return super().batch_gradients(weights, indices, keys)
        inputs, targets = self._examples
        [trainable] = weights.trainable()
        gradients = torch.empty(trainable.shape, dtype=torch.float32, device="cpu")
        losses = self._training.train(trainable, inputs, targets, indices, gradients, keys)
        return losses, [gradients]

    def batch_losses(self, weights: Matrix, indices: Tensor, keys: Tensor) -> Tensor:
        """See ``BatchedModel``."""
        if self._training is None or self._examples is None:
            return super().batch_losses(weights, indices, keys)
        inputs, targets = self._examples
        [trainable] = weights.trainable()
        return self._training.train(trainable, inputs, targets, indices, None, keys)

    def criterion(self, weights: Matrix, inputs: Tensor, targets: Tensor) -> Tensor:
        """See ``BatchedModel``."""
        if self._scoring is None:
            return super().criterion(weights, inputs, targets)
        [trainable] = weights.trainable()
        inputs, targets = inputs.contiguous(), targets.contiguous()
        if self._scores_losses:
            return self._scoring.losses(trainable, inputs, targets)
        values: Tensor = self._criterion_of_outputs(
            self._scoring.outputs(trainable, inputs), targets
        )
        return values

    def rule(self, rule: Rule) -> Rule:
        """See ``BatchedModel``."""
        return rule if self._updates is None else native_rule(rule, self._updates)

    def _of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        criterion = self._task.metric or self._task.loss
        return torch.as_tensor(criterion(outputs, targets), device=outputs.device)


class _Builder:
    """Kernels of a task's model, tried on a batch of it."""

    def __init__(
        self, task: SupervisedTask, model: nn.Module, layout: Layout, device: torch.device
    ) -> None:
        self._task = task
        self._model = model
        self._layout = layout
        self._device = device
        self._loss = read_loss(task.loss)

    def training(self) -> Kernel | str:
        """A kernel for gradients, or why there is none."""
        chain = read_chain(copy.deepcopy(self._model).train())
        reason = self._why_unfit(chain, self._task.train)
        if reason is not None or isinstance(chain, str):
            return reason or str(chain)
        if not _is_loss(self._loss):
            return self._loss
        if not self.has_simple_loss(self._task.train):
            return f"{self._loss} has targets of another kind"
        return _tried(self._build(chain, self._loss), self._try_training)

    def scoring(self) -> Kernel | str:
        """A kernel for losses or outputs in evaluation mode, or why there is none."""
        chain = read_chain(copy.deepcopy(self._model).eval())
        reason = self._why_unfit(chain, self._task.validation)
        if reason is not None or isinstance(chain, str):
            return reason or str(chain)
        kernel = self._build(chain, self._loss if _is_loss(self._loss) else None)
        return _tried(kernel, self._try_scoring)

    def has_simple_loss(self, examples: ExampleSet) -> bool:
        """Whether targets are such that the loss is what the kernel takes it for."""
        if not _is_loss(self._loss) or examples.tensors is None:
            return False
        targets = examples.tensors[1]
        n_out = self._n_out()
        if self._loss == "cross_entropy":
            is_class = targets.dtype == torch.int64 and targets.dim() == 1
            return is_class and int(targets.min()) >= 0 and int(targets.max()) < n_out
        return targets.dtype == torch.float32 and targets.shape[1:] == (n_out,)

    def _n_out(self) -> int:
        chain = read_chain(self._model)
        return -1 if isinstance(chain, str) else chain.layers[-1].n_out

    def _why_unfit(self, chain: Chain | str, examples: ExampleSet) -> str | None:
        """What keeps a kernel from being written for these weights and examples."""
        if isinstance(chain, str):
            return chain
        shapes: dict[str, tuple[int, ...]] = {}
        for one in chain.layers:
            shapes[one.weight] = (one.n_out, one.n_in)
            if one.bias is not None:
                shapes[one.bias] = (one.n_out,)
        inputs = None if examples.tensors is None else examples.tensors[0]
        n_in = chain.layers[0].n_in
        needs = (
            (self._device.type == "cpu", f"kernels are not for {self._device.type!r}"),
            (self._task.precision == "float32", f"precision is {self._task.precision!r}"),
            (
                {entry.dtype for entry in self._layout.entries} == {torch.float32},
                "its weights are not all of float32",
            ),
            (
                {entry.name for entry in self._layout.entries} == shapes.keys(),
                "it has weights that are shared, or beside its layers",
            ),
            (
                {entry.name: tuple(entry.shape) for entry in self._layout.entries} == shapes,
                "it has weights of other shapes than its layers say",
            ),
            (
                type(self._task).autocast is SupervisedTask.autocast,
                "its task has an autocast of its own",
            ),
            (
                inputs is not None
                and inputs.dtype == torch.float32
                and (inputs.dim() == 2 or chain.flattens)
                and inputs[0].numel() == n_in,
                f"the examples are not tensors of {n_in} float32 numbers each",
            ),
        )
        reason = next((reason for is_met, reason in needs if not is_met), None)
        return reason or self._why_other_precision(examples)

    def _why_other_precision(self, examples: ExampleSet) -> str | None:
        """Whether the model computes in another precision than it has, as within an autocast."""
        inputs = examples.on(self._device)[0][:1]
        model = copy.deepcopy(self._model)
        with torch.no_grad(), KeyedDropout(torch.tensor(0, device=self._device)):
            dtypes = {model.train(mode)(inputs).dtype for mode in (True, False)}
        return None if dtypes == {torch.float32} else f"its outputs are of {dtypes}"

    def _build(self, chain: Chain, loss: Loss | None) -> Kernel | str:
        entries = {entry.name: entry for entry in self._layout.entries}
        places = [
            Place(
                weight=entries[layer.weight].offset,
                bias=None if layer.bias is None else entries[layer.bias].offset,
                trains_weight=entries[layer.weight].kind == "parameter",
                trains_bias=layer.bias is not None and entries[layer.bias].kind == "parameter",
            )
            for layer in chain.layers
        ]
        return build_kernel(chain, loss, places, self._task.train.batch_size)

    def _try_training(self, kernel: Kernel) -> str | None:
        """Compare with plain PyTorch in double precision; say what differs."""
        examples, weights = _in_one_piece(self._task, self._device), self._two_rows()
        gradients = torch.empty(weights.shape, dtype=torch.float32, device="cpu")
        keys = torch.tensor([0, 1], device="cpu")
        plain = copy.deepcopy(self._model).double().train()
        parameters = {name: p for name, p in plain.named_parameters() if p.requires_grad}
        batch_size = min(self._task.train.batch_size, len(self._task.train))
        for size in {batch_size, -(-batch_size // 2)}:
            numbers = torch.arange(size, device="cpu").expand(2, size)
            losses = kernel.train(weights, *examples, numbers, gradients, keys)
            inputs, targets = (_in_double(one[:size]) for one in examples)
            with KeyedDropout(keys[1]):
                loss = self._task.loss(plain(inputs), targets)
            found = torch.autograd.grad(loss, list(parameters.values()))
            named = {name: one.unsqueeze(0) for name, one in zip(parameters, found, strict=True)}
            [expected] = self._layout.flatten_trainable(named)
            if _differs(losses[1], loss.detach()) or _differs(gradients[1], expected[0]):
                return _DISAGREES
        return None

    def _try_scoring(self, kernel: Kernel) -> str | None:
        """The same in evaluation mode."""
        whole = self._task.validation.on(self._device)
        inputs, targets = (one[:_N_TRIED].contiguous() for one in whole)
        weights = self._two_rows()
        plain = copy.deepcopy(self._model).double().eval()
        outputs = plain(inputs.double()).detach()
        if _differs(kernel.outputs(weights, inputs)[1], outputs):
            return _DISAGREES
        if self.has_simple_loss(self._task.validation):
            losses = kernel.losses(weights, inputs, targets)
            if _differs(losses[1], self._task.loss(outputs, _in_double(targets))):
                return _DISAGREES
        return None

    def _two_rows(self) -> Tensor:
        """The model's weights in two rows of a matrix."""
        weights = Matrix.zeros(self._layout, 2, self._device)
        for row in range(2):
            weights.take_from(self._model, row)
        [trainable] = weights.trainable()
        return trainable


def _tried(kernel: Kernel | str, attempt: Callable[[Kernel], str | None]) -> Kernel | str:
    """The kernel, unless the attempt gives a reason against it."""
    if isinstance(kernel, str):
        return kernel
    try:
        return attempt(kernel) or kernel
    except RuntimeError as error:  # such as of a network that cannot be in double precision
        return f"it cannot be compared with plain PyTorch ({type(error).__name__})"


def _in_double(of: Tensor) -> Tensor:
    return of.double() if of.is_floating_point() else of


def _in_one_piece(task: SupervisedTask, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets to train on, copied where they are not contiguous."""
    inputs, targets = task.train.on(device)
    return inputs.contiguous(), targets.contiguous()


def _is_loss(loss: Loss | str) -> TypeGuard[Loss]:
    return loss in get_args(Loss)


def _differs(native: Tensor, plain: Tensor) -> bool:
    distance = float((native.double() - plain).norm())
    return not distance <= _TOLERANCE * max(1e-6, float(plain.norm()))  # what is NaN differs too
