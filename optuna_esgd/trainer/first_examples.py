"""A new model on two examples: what cannot work is refused before anything is trained."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.examples import ExampleSet
from optuna_esgd.trainer.spaces import lowest_values
from optuna_esgd.trainer.supervised import Criterion, SupervisedTask, name_of
from optuna_esgd.trainer.task import evaluation_mode

_logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_ROUNDING = 1e-4


def check_builds_anew(build: Callable[[], nn.Module], model: nn.Module) -> None:
    """Refuse a function that returns one model for all.

    Args:
        build: Builds models.
        model: What it has built before.

    Raises:
        ConfigurationError: The same parameters are in two of its models.
    """
    known = {id(one) for one in model.parameters() if one.requires_grad}
    if any(id(one) in known for one in build().parameters()):
        raise ConfigurationError(
            "The model function returned the same model twice, so individuals would train one "
            "another's weights: build a new one in it, e.g. model=lambda: Net(). Existing weights "
            "go into ESGDTrainer(task, anchor=...)."
        )


def check_examples(
    task: SupervisedTask,
    model: nn.Module,
    species: Mapping[str, Species],
    *,
    device: torch.device,
) -> None:
    """Try two examples of each kind, on the CPU.

    Args:
        task: Whose examples, loss and metric.
        model: A new one, of no use afterwards: its gradients are not kept, its weights may move.
        species: Whose optimizers are to train it.
        device: Where it is to be trained. What fails here may work there, and is left to it,
            unless that is the CPU too.

    Raises:
        ConfigurationError: Examples are of another floating-point type than the model's, and it
            does not take them; or loss or metric cannot be computed, or is not one number, or not
            a mean; or the last batch has one example, which the model cannot train on; or it has
            sparse gradients, which a species cannot train on.
    """
    is_conclusive = all(one.device == _CPU == device for one in model.parameters())
    scored = ("loss", task.loss) if task.metric is None else ("metric", task.metric)
    for name, criterion, kind, examples in (
        ("loss", task.loss, "train", task.train),
        (*scored, "validation", task.validation),
    ):
        trial = _Trial(task, model, name, criterion, kind, examples)
        trial.check_precision()
        trial.check_value(is_conclusive=is_conclusive)
    if type(task).train_epoch is SupervisedTask.train_epoch:
        with _unchanged(model):
            _check_training(task, model, species, is_conclusive=is_conclusive)


def _check_training(
    task: SupervisedTask,
    model: nn.Module,
    species: Mapping[str, Species],
    *,
    is_conclusive: bool,
) -> None:
    """Try the gradient of two examples, or of one where that is what the last batch has."""
    [*_, last] = task.train.cut(task.train.everyone)
    is_alone = len(last) == 1 and task.make_sampler is None
    try:
        loss = _gradient(task, model, last if is_alone else task.train.everyone[:2])
    except Exception as error:
        if is_conclusive and is_alone:
            raise ConfigurationError(
                f"The last batch of train is a single example of {len(task.train)}, on which the "
                f"model cannot be trained: {type(error).__name__}: {_first_line(error)}. Choose "
                "another batch_size, or give a DataLoader with drop_last=True."
            ) from error
        _logger.debug("Training could not be tried.", exc_info=True)
        return
    sparse = [name for name, one in model.named_parameters() if _has_sparse_gradient(one)]
    for one in species.values() if sparse else ():
        try:
            parameters = [each for each in model.parameters() if each.requires_grad]
            one.build(parameters, lowest_values(one)).step(lambda: float(loss))
        except Exception as error:
            raise ConfigurationError(
                f"Species {one.name} cannot train this model, since the gradients of "
                f"{sparse[0]!r} are sparse: {_first_line(error)}. Build the layer with "
                "sparse=False."
            ) from error


def _gradient(task: SupervisedTask, model: nn.Module, positions: Tensor) -> Tensor:
    """The loss of a few examples in training mode, whose gradient the model then has."""
    model.train()
    inputs, targets = task.train.take(positions, _CPU)
    with torch.enable_grad(), task.autocast(_CPU):
        loss = task.loss(model(inputs), targets)
    loss.backward()
    return loss.detach()


def _has_sparse_gradient(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Leave modes, and buffers, which models may share, as they were; no gradients."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        for module, is_training in modes:
            module.training = is_training
        for buffer, value in kept:
            buffer.copy_(value)


def _first_line(error: Exception) -> str:
    [first, *_] = [*str(error).strip().splitlines(), ""]
    return first.rstrip(".")


class _Trial:
    """A criterion on the first two examples of a kind."""

    def __init__(
        self,
        task: SupervisedTask,
        model: nn.Module,
        name: str,
        criterion: Criterion,
        kind: str,
        examples: ExampleSet,
    ) -> None:
        self._task = task
        self._model = model
        self._name = name
        self._criterion = criterion
        self._kind = kind
        self._examples = examples
        self._n = min(2, len(examples))
        self._inputs, self._targets = self._take(range(self._n))

    def check_precision(self) -> None:
        """Refuse floating-point numbers of a type that the model does not take."""
        mine = {one.dtype for one in self._model.parameters() if one.is_floating_point()}
        parts = {"inputs": self._inputs, "targets": self._targets}
        others = {
            f"{name} of {self._kind}": part.dtype
            for name, part in parts.items()
            if isinstance(part, Tensor) and part.is_floating_point() and part.dtype not in mine
        }
        if not (mine and others):
            return
        try:
            with self._task.autocast(_CPU):
                loss = self._task.loss(self._model(self._inputs), self._targets)
            loss.backward()
        except RuntimeError as error:
            found = " and ".join(f"{name} are {dtype}" for name, dtype in others.items())
            raise ConfigurationError(
                f"The model's weights are {', '.join(map(str, mine))}, but the {found}: "
                f"{str(error).splitlines()[0]}. Convert the examples first, e.g. "
                "torch.as_tensor(inputs).float(), or the model, e.g. model.double()."
            ) from None
        finally:
            self._model.zero_grad(set_to_none=True)

    def check_value(self, *, is_conclusive: bool) -> None:
        """Refuse a criterion that fails, or is no mean over the examples.

        Args:
            is_conclusive: Whether training would fail as well where this fails.
        """
        try:
            value = self._value(self._inputs, self._targets)
            # Two outputs of two examples may fit two targets where no other number would.
            self._value(*self._take(range(min(3, len(self._examples)))))
        except Exception as error:
            if is_conclusive and not self._takes_a_whole_batch():
                raise ConfigurationError(self._why(error)) from error
            _logger.debug("The %s could not be tried.", self._name, exc_info=True)
            return
        number = self._check_number(value)
        if not math.isfinite(number):
            _logger.warning(
                "The %s of a new model on the first examples of %s is %s: look at the data.",
                self._name,
                self._kind,
                number,
            )
        self._check_mean(number)

    def _check_number(self, value: object) -> float:
        if self._kind == "train" and isinstance(value, int | float):
            raise ConfigurationError(
                f"loss must return a tensor, which training goes back from; "
                f"{name_of(self._criterion)} returned {type(value).__name__}. Leave out .item()."
            )
        shape = getattr(value, "shape", ())
        if math.prod(shape) != 1 or not isinstance(value, SupportsFloat):
            got = f"a tensor of shape {tuple(shape)}" if shape else type(value).__name__
            raise ConfigurationError(
                f"{self._name} must be one number per batch, the mean over its examples; "
                f"{name_of(self._criterion)} returned {got} for {self._n} examples. "
                "Return e.g. values.mean()."
            )
        return float(value)

    def _check_mean(self, number: float) -> None:
        """A sum depends on how examples are batched, and so do the rates that suit it."""
        if self._n != 2:
            return
        try:
            parts = [float(self._value(*self._take([at]))) for at in (0, 1)]
        except Exception:  # noqa: BLE001 - what needs two examples is no sum over them
            return
        is_sum = math.isclose(number, sum(parts), rel_tol=_ROUNDING)
        if is_sum and not math.isclose(number, sum(parts) / 2, rel_tol=_ROUNDING):
            raise ConfigurationError(
                f"{self._name} must be the mean over a batch, but {name_of(self._criterion)} "
                f"returned the sum: {number:.6g} for two examples that have {parts[0]:.6g} and "
                f"{parts[1]:.6g}. Use e.g. reduction='mean'."
            )

    def _why(self, error: Exception) -> str:
        return (
            f"The {self._name} of a new model cannot be computed on the first examples of "
            f"{self._kind} (inputs: {_in_words(self._inputs)}; targets: "
            f"{_in_words(self._targets)}): {type(error).__name__}: {_first_line(error)}"
        )

    def _takes_a_whole_batch(self) -> bool:
        """Whether it works with as many examples as it will be given."""
        try:
            n_examples = min(self._examples.batch_size, len(self._examples))
            self._value(*self._take(range(n_examples)))
        except Exception:  # noqa: BLE001 - the first one is told
            return False
        return True

    def _take(self, positions: range | list[int]) -> tuple[Any, Any]:
        return self._examples.take(torch.tensor(list(positions), device=_CPU), _CPU)

    def _value(self, inputs: Any, targets: Any) -> Any:
        with evaluation_mode(self._model), torch.no_grad(), self._task.autocast(_CPU):
            return self._criterion(self._model(inputs), targets)


def _in_words(part: object) -> str:
    if isinstance(part, Tensor):
        return f"{part.dtype} of shape {tuple(part.shape)}"
    return type(part).__name__
