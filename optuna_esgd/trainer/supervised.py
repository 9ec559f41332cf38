"""The declared task: model, loss and data. Whole cohorts of it train as one computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.evolution.space import FloatRange, Space
from optuna_esgd.genome.statistics import has_running_statistics, reestimate_statistics
from optuna_esgd.trainer.blame import blamed_on_the_optimizer
from optuna_esgd.trainer.closure import SupervisedClosure
from optuna_esgd.trainer.dropout import check_has_dropout, dropout_range, set_dropout
from optuna_esgd.trainer.examples import Arrays, Examples, ExampleSet
from optuna_esgd.trainer.guidance import (
    MakeSampler,
    Schedule,
    described,
    resolve_batches,
    resolve_schedule,
    scheduled,
)
from optuna_esgd.trainer.task import Epoch, Task, evaluation_mode
from optuna_esgd.trainer.training_batches import SampledBatches, TrainingBatches

Criterion: TypeAlias = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> one number, the mean over the batch."""


def name_of(criterion: Criterion) -> str:
    """What a function, or the class of an object that is called, is called itself."""
    while isinstance(criterion, partial):
        criterion = criterion.func
    return str(getattr(criterion, "__name__", type(criterion).__name__))


_CALIBRATION_EXAMPLES = 2048


class SupervisedTask(Task):
    """Inputs and targets, a model, and a loss between them.

    Args:
        model: Builds a freshly initialised model, e.g. ``lambda: nn.Linear(4, 2)`` or a class.
            Models for a known set of weights go into ``ESGDTrainer(anchor=...)``.
        loss: ``loss(outputs, targets)``, the mean over a batch as one number; what is trained on.
            It and the model are to be functions of tensors: other Python objects that they read
            are taken to stay as they are, since what trains batched is traced.
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
        schedule: Learning rate or momentum over the SGD step, by batches: ``"cosine"``,
            ``"momentum_annealing"``, ``"mutual_information"``, or ``schedule(optimizer, n_steps)``
            that makes a scheduler of ``torch.optim``. It starts from the values the trial shows in
            every generation. One that has a ``memory``, as ``MutualInformationLR``, is told what
            the model answers when an epoch begins (one more forward pass); what it remembers is
            inherited with the optimizer's state.
        batches: Which examples come next: ``"oddball"`` by error, ``"importance"`` the same with
            importance weights, or ``batches(n, batch_size, generator=...)`` that makes a batch
            sampler, such as ``partial(OddballSampler, alpha=2)``. One that has ``update`` and
            ``weights`` is told the loss of every example when an epoch begins (one more forward
            pass), and of each batch as it trains. Everyone once, in a random order, if None.
        dropout: Range of the dropout rate, e.g. ``(0.0, 0.5)``: a hyperparameter that is inherited
            like those of the species; all dropout layers of the model train with it.
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
        schedule: Schedule | str | None = None,
        batches: MakeSampler | str | None = None,
        dropout: FloatRange | tuple[float, float] | None = None,
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
            if isinstance(criterion, type):
                raise ConfigurationError(
                    f"{name} must be a function of (outputs, targets), got the class "
                    f"{criterion.__name__}: write {name}={criterion.__name__}()."
                )
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
        self.schedule = resolve_schedule(schedule)
        self.make_sampler = resolve_batches(batches)
        self._dropout = None if dropout is None else dropout_range(dropout)
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
        if self._dropout is not None:
            check_has_dropout(model)
        return model

    @property
    def space(self) -> Space:
        """The dropout rate, where it is searched."""
        return {} if self._dropout is None else {"dropout": self._dropout}

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch
    ) -> None:
        """One pass over the training examples in this individual's own order (the reference).

        A step that has begun ends: an optimizer that takes several mini-batches per step may go
        on into another pass. Whatever optimizers ask for, see ``optuna_esgd.optim.closure``.

        Raises:
            OptimizerError: The optimizer raised in its step.
        """
        if self._dropout is not None:
            set_dropout(model, epoch.hyperparameters["dropout"])
        batches = self._training_batches(model, epoch)
        model.train()
        closure = SupervisedClosure(batches, model, optimizer, epoch, self.autocast)
        n_batches, n_scheduled = len(batches), 0

        def measure() -> tuple[Tensor, Tensor]:
            return self._answers(model, epoch)

        with scheduled(self.schedule, optimizer, epoch, n_batches, measure) as advance:
            while closure.n_advances < n_batches:
                with blamed_on_the_optimizer(closure, type(optimizer).__name__):
                    optimizer.step(closure)  # type: ignore[arg-type]
                closure.advance()
                for _ in range(n_scheduled, min(closure.n_advances, n_batches)):
                    advance()
                n_scheduled = closure.n_advances

    def why_row_by_row(self) -> str | None:
        """Why this task's epochs cannot be batched, whatever the model; None if they can."""
        if type(self).train_epoch is not SupervisedTask.train_epoch:
            return f"{type(self).__name__} has a train_epoch of its own"
        guides = {
            "schedule": self.schedule,
            "batches": self.make_sampler,
            "dropout": self._dropout,
        }
        chosen = [name for name, guide in guides.items() if guide is not None]
        return f"each individual has its own {' and '.join(chosen)}" if chosen else None

    def why_scored_one_by_one(self) -> str | None:
        """Why fitness cannot be measured batched, whatever the model; None if it can."""
        if type(self).fitness is not SupervisedTask.fitness:
            return f"{type(self).__name__} has a fitness of its own"
        return None

    def _training_batches(self, model: nn.Module, epoch: Epoch) -> TrainingBatches:
        """The batches of an epoch, and their loss."""
        if self.make_sampler is None:
            return TrainingBatches(self.train, self.loss, epoch)
        made = self.make_sampler(
            len(self.train), self.train.batch_size, generator=epoch.generator()
        )
        batches = SampledBatches(self.train, self.loss, epoch, made)
        with evaluation_mode(model), self.autocast(epoch.device):
            if batches.measure_errors(model, self.validation.batch_size):
                epoch.spending.n_forwards += self.train.n_batches
        return batches

    @torch.no_grad()
    def _answers(self, model: nn.Module, epoch: Epoch) -> tuple[Tensor, Tensor]:
        """What the model answers on the training examples, and what would have been right."""
        epoch.spending.n_forwards += self.train.n_batches
        answers: list[tuple[Any, Any]] = []
        with evaluation_mode(model), self.autocast(epoch.device):
            for indices in self.train.everyone.split(self.validation.batch_size):
                inputs, targets = self.train.take(indices, epoch.device)
                answers.append((model(inputs), targets))
        if not all(isinstance(part, Tensor) for answer in answers for part in answer):
            raise TaskError(
                "A schedule that is told what the model answers needs outputs and targets that "
                f"are tensors, got {', '.join(type(part).__name__ for part in answers[0])}."
            )
        predictions, right = (torch.cat(parts) for parts in zip(*answers, strict=True))
        return predictions, right

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
            for indices in examples.cut(examples.everyone):
                inputs, targets = examples.take(indices, device)
                total += float(criterion(model(inputs), targets)) * len(indices)
        return total / len(examples)

    def describe(self) -> Mapping[str, str]:
        """Names of loss and metric, digests of data that is tensors, and what else matters."""
        guides = {"schedule": described(self.schedule), "batches": described(self.make_sampler)}
        return {
            "loss": name_of(self.loss),
            "metric": "the loss" if self.metric is None else name_of(self.metric),
            "training data": f"{self.train.describe()}, batches of {self.train.batch_size}",
            "validation data": self.validation.describe(),
            "precision": self.precision,
            **{name: text for name, text in guides.items() if text is not None},
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
        for indices in examples.cut(examples.everyone):
            is_alone = n_seen > 0 and len(indices) == 1  # of which there are no statistics
            if n_seen >= n_wanted or is_alone:
                return
            yield examples.take(indices, device)
            n_seen += len(indices)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context forward passes run in."""
        return torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
        )
