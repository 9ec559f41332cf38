"""The declared task: model, loss and data. Whole cohorts of it train as one computation."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.genome.keyed_randomness import KeyedDropout
from optuna_esgd.genome.statistics import has_running_statistics, reestimate_statistics
from optuna_esgd.optim.closure import Closure
from optuna_esgd.trainer.blame import blamed_on_the_optimizer
from optuna_esgd.trainer.task import Epoch, Task, evaluation_mode

Arrays: TypeAlias = tuple[Any, Any]
Examples: TypeAlias = "Arrays | Dataset[Any] | DataLoader[Any]"
Criterion: TypeAlias = Callable[[Any, Any], Tensor]

_CALIBRATION_EXAMPLES = 2048


class SupervisedTask(Task):
    """Inputs and targets, a model, and a loss between them.

    Args:
        model: Builds a freshly initialised model, e.g. ``lambda: nn.Linear(4, 2)`` or a class.
            Models for a known set of weights go into ``ESGDTrainer(anchor=...)``.
        loss: ``loss(outputs, targets)``, the mean over a batch as one number; what is trained on.
        train: ``(inputs, targets)`` as tensors or arrays, a map-style ``Dataset`` of such pairs,
            or a ``DataLoader`` over one (its batch size, collate function and ``drop_last`` are
            used; the order is drawn per individual and epoch). Tensors and ``TensorDataset``
            train batched.
        validation: The same, fixed: fitness is measured on it.
        metric: ``metric(outputs, targets)``, the mean over a batch: the fitness, in the study's
            direction. The loss if None (then the study must minimise).
        batch_size: Examples per gradient.
        evaluation_batch_size: Examples per forward pass when scoring: speed, and memory, of which
            a batched cohort takes as much as all of its individuals together.
        precision: ``"float32"``, or ``"bfloat16"`` to run forward and backward passes under
            autocast (weights stay as they are).
        calibration: Examples to re-estimate batch-norm statistics of bred models on; up to 2048
            training examples if None.

    Raises:
        ConfigurationError: Data or arguments that cannot be trained on.
    """

    def __init__(  # noqa: PLR0913  (a declaration: all by keyword)
        self,
        *,
        model: Callable[[], nn.Module],
        loss: Criterion,
        train: Examples,
        validation: Examples,
        metric: Criterion | None = None,
        batch_size: int | None = None,
        evaluation_batch_size: int = 256,
        precision: str = "float32",
        calibration: Arrays | None = None,
    ) -> None:
        if isinstance(model, nn.Module) or not callable(model):
            raise ConfigurationError(
                "model must be a function (or class) that builds a new model each time it is "
                f"called, got {type(model).__name__}. Write model=lambda: ..., and give existing "
                "weights to ESGDTrainer(task, anchor=...)."
            )
        if precision not in ("float32", "bfloat16"):
            raise ConfigurationError(
                f"precision must be 'float32' or 'bfloat16', got {precision!r}."
            )
        for name, criterion in {"loss": loss, "metric": metric}.items():
            if criterion is not None and not callable(criterion):
                raise ConfigurationError(
                    f"{name} must be a function of (outputs, targets), got {criterion!r}."
                )
        self.model = model
        self.loss = loss
        self.metric = metric
        self.precision = precision
        size = 32 if batch_size is None else batch_size
        self.train = ExampleSet.of(train, size, "train", override=batch_size)
        self.validation = ExampleSet.of(validation, evaluation_batch_size, "validation")
        self._calibration = (
            None
            if calibration is None
            else ExampleSet.of(calibration, evaluation_batch_size, "calibration")
        )

    def build_model(self) -> nn.Module:
        """Build one model, and refuse what is none."""
        model = self.model()
        if not isinstance(model, nn.Module):
            raise TaskError(f"model() must return a torch.nn.Module, got {type(model).__name__}.")
        return model

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch
    ) -> None:
        """One pass over the training examples in this individual's own order (the reference).

        A step that has begun ends: an optimizer that takes several mini-batches per step may go
        on into another pass. Whatever optimizers ask for, see ``optuna_esgd.optim.closure``.

        Raises:
            OptimizerError: The optimizer raised in its step.
        """
        model.train()
        closure = SupervisedClosure(self, model, optimizer, epoch)
        n_batches = self.train.n_batches
        while closure.n_advances < n_batches:
            with blamed_on_the_optimizer(closure, type(optimizer).__name__):
                optimizer.step(closure)  # type: ignore[arg-type]
            closure.advance()

    def fitness(self, model: nn.Module) -> float:
        """Mean metric (or loss) over the validation examples."""
        return self.score(model, self.validation, self.metric or self.loss)

    def score(
        self, model: nn.Module, examples: Examples | ExampleSet, criterion: Criterion
    ) -> float:
        """Mean of ``criterion`` over examples, e.g. a held-out test set, in evaluation mode."""
        if not isinstance(examples, ExampleSet):
            examples = ExampleSet.of(examples, self.validation.batch_size, "examples")
        device = next(model.parameters()).device
        total = 0.0
        with evaluation_mode(model), torch.no_grad(), self.autocast(device):
            for inputs, targets in examples.batches(device):
                total += float(criterion(model(inputs), targets)) * len(targets)
        return total / len(examples)

    def describe(self) -> Mapping[str, str]:
        """Digests of the data, where it is tensors, and what else changes the numbers."""
        return {
            "training data": f"{self.train.describe()}, batches of {self.train.batch_size}",
            "validation data": self.validation.describe(),
            "precision": self.precision,
        }

    def calibrate(self, model: nn.Module) -> None:
        """Re-estimate the running statistics of a bred model on fixed training batches."""
        if has_running_statistics(model):
            device = next(model.parameters()).device
            reestimate_statistics(
                model, (inputs for inputs, _ in self._calibration_batches(device))
            )

    def _calibration_batches(self, device: torch.device) -> Iterator[tuple[Any, Any]]:
        examples = self._calibration or self.train
        n_wanted = len(examples) if self._calibration else _CALIBRATION_EXAMPLES
        n_seen = 0
        for inputs, targets in examples.batches(device):
            is_alone = n_seen > 0 and len(targets) == 1  # of which there are no statistics
            if n_seen >= n_wanted or is_alone:
                return
            yield inputs, targets
            n_seen += len(targets)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context forward passes run in."""
        return torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
        )


class SupervisedClosure(Closure):
    """The loss of one model on its own mini-batches, without end.

    Attributes:
        n_advances: How many mini-batches are done with.
        has_failed: Whether model, loss or data raised.
    """

    def __init__(
        self,
        task: SupervisedTask,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        epoch: Epoch,
    ) -> None:
        self._task = task
        self._model = model
        self._optimizer = optimizer
        self._device = epoch.device
        self._seed = torch.tensor(epoch.seed, device=epoch.device)
        laps = (task.train.batches(epoch.device, epoch.seed, lap) for lap in itertools.count())
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
        with self._task.autocast(self._device), KeyedDropout(self._seed + self.n_advances):
            return self._task.loss(self._model(inputs), targets)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.has_failed = True
            raise


class ExampleSet:
    """Examples in one form: tensors where possible, else a map-style dataset.

    Attributes:
        tensors: (inputs, targets) with examples along the first dimension; None for a dataset
            that must be asked for each item (it may augment).
        batch_size: Examples per batch; the last batch may be smaller.
    """

    def __init__(
        self,
        tensors: tuple[Tensor, Tensor] | None,
        dataset: Dataset[Any] | None,
        batch_size: int,
        collate: Callable[[list[Any]], Any],
        *,
        drop_last: bool = False,
    ) -> None:
        self.tensors = tensors
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._dataset = dataset
        self._collate = collate
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(
        cls, examples: Examples, batch_size: int, name: str, *, override: int | None = None
    ) -> ExampleSet:
        """Bring what users have (arrays, tensors, dataset, loader) into this form.

        Raises:
            ConfigurationError: Not examples, of unequal lengths, or none at all.
        """
        collate: Callable[[list[Any]], Any] = default_collate
        drop_last = False
        if isinstance(examples, DataLoader):
            drop_last = examples.drop_last and name == "train"
            if examples.batch_size is not None and override is None and name == "train":
                batch_size = examples.batch_size
            collate, examples = examples.collate_fn, examples.dataset
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(
                f"Batch sizes must be whole numbers of at least 1, got {batch_size!r}."
            )
        if isinstance(examples, IterableDataset):
            raise ConfigurationError(
                f"{name} must be of known length with items by index; an IterableDataset is not. "
                "Use a map-style dataset, or subclass Task and write train_epoch yourself."
            )
        # Only the plain class: whatever transforms its items must be asked for them.
        if type(examples) is TensorDataset and collate is default_collate:
            tensors: tuple[Tensor, ...] = examples.tensors
            examples = (tensors[0], tensors[1]) if len(tensors) == 2 else examples
        if isinstance(examples, Dataset):
            n_examples = len(examples)  # type: ignore[arg-type]
            made = cls(None, examples, batch_size, collate, drop_last=drop_last)
        else:
            inputs, targets = _as_tensors(examples, name)
            n_examples = len(inputs)
            made = cls((inputs, targets), None, batch_size, collate, drop_last=drop_last)
        if n_examples == 0:
            raise ConfigurationError(f"{name} has no examples.")
        return made

    def describe(self) -> str:
        """Number of examples, and a digest where they are tensors."""
        if self.tensors is None:
            return f"{len(self)} examples"
        digest = xxhash.xxh3_64()
        for tensor in self.tensors:
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(content.numpy().data)
        return f"{len(self)} examples {digest.hexdigest()}"

    def __len__(self) -> int:
        """Number of examples."""
        if self.tensors is not None:
            return len(self.tensors[0])
        return len(self._dataset)  # type: ignore[arg-type]

    @property
    def n_batches(self) -> int:
        """Batches in one pass."""
        return len(self.cut(torch.arange(len(self))))

    def cut(self, order: Tensor, dim: int = 0) -> list[Tensor]:
        """Cut indices along a dimension into batches; the last may be smaller, or dropped."""
        batches = list(order.split(self.batch_size, dim=dim))
        if self.drop_last and len(batches) > 1 and batches[-1].shape[dim] < self.batch_size:
            del batches[-1]
        return batches

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The tensors on a device, copied there once."""
        if self.tensors is None:
            raise TypeError("These examples are a dataset, not tensors.")
        if device not in self._on_device:
            inputs, targets = self.tensors
            self._on_device[device] = (inputs.to(device), targets.to(device))
        return self._on_device[device]

    def order(self, seed: int, lap: int = 0) -> Tensor:
        """(examples,) a permutation that depends on the seed and the number of the pass only."""
        seed = derive_seed(seed, "lap", lap) if lap else seed
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def batches(
        self, device: torch.device, seed: int | None = None, lap: int = 0
    ) -> Iterator[tuple[Any, Any]]:
        """One pass, in the order of ``seed``, or as they are where it is None."""
        order = torch.arange(len(self)) if seed is None else self.order(seed, lap)
        for indices in self.cut(order):
            if self.tensors is not None:
                inputs, targets = self.on(device)
                on_device = indices.to(device)
                yield inputs[on_device], targets[on_device]
            else:
                items = [self._dataset[int(index)] for index in indices]  # type: ignore[index]
                inputs, targets = self._collate(items)
                yield _to_device(inputs, device), _to_device(targets, device)


def _as_tensors(examples: object, name: str) -> tuple[Tensor, Tensor]:
    if not (isinstance(examples, tuple | list) and len(examples) == 2):
        raise ConfigurationError(
            f"{name} must be (inputs, targets), a Dataset or a DataLoader, got "
            f"{type(examples).__name__}."
        )
    tensors = []
    for part in examples:
        if not isinstance(part, torch.Tensor | np.ndarray):
            raise ConfigurationError(
                f"{name} must hold tensors or arrays, got {type(part).__name__}."
            )
        tensors.append(torch.as_tensor(part))
    inputs, targets = tensors
    if len(inputs) != len(targets):
        raise ConfigurationError(
            f"{name} has {len(inputs)} inputs but {len(targets)} targets; they must be as many."
        )
    return inputs, targets


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, tuple | list):
        return type(batch)(_to_device(part, device) for part in batch)
    if isinstance(batch, dict):
        return {name: _to_device(part, device) for name, part in batch.items()}
    return batch
