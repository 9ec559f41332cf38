"""Scores of a model on what took no part in training it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.trainer.examples import Examples, ExampleSet
from optuna_esgd.trainer.supervised import Criterion, SupervisedTask

Test = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class HeldOut:
    """Scores a model of a supervised task on examples that took no part in training it.

    Attributes:
        task: Knows how to run the model.
        examples: Inputs and targets.
        metrics: Mean over a batch, by name; the task's loss if empty.

    Raises:
        ConfigurationError: The task is no supervised one, or the examples are none.
    """

    task: SupervisedTask
    examples: Examples
    metrics: Mapping[str, Criterion] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse now what would fail after hours of training."""
        if not isinstance(self.task, SupervisedTask):
            raise ConfigurationError(
                f"HeldOut needs a SupervisedTask, got {type(self.task).__name__}. For a task with "
                "a loop of its own write a function (model) -> numbers by name."
            )
        ExampleSet.of(self.examples, self.task.validation.batch_size, "examples of HeldOut")

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Mean of each metric over the examples."""
        metrics = self.metrics or {"loss": self.task.loss}
        return {
            name: self.task.score(model, self.examples, metric) for name, metric in metrics.items()
        }


def ask_test(test: Test, model: nn.Module) -> dict[str, float]:
    """What a test says of a model, which is to evaluate.

    Raises:
        TaskError: Something else than numbers by name.
    """
    found: Any = test(model.eval())
    try:
        scores = {str(name): _as_number(one) for name, one in found.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError):
        scores = {}
    if not scores:
        raise TaskError(
            'test must return numbers by name, the first of them the headline, such as {"loss": '
            f"0.31}}; it returned {found!r:.200}."
        )
    return scores


def _as_number(score: object) -> float:
    """A number, or what holds a single one; texts are none, though Python reads them."""
    if isinstance(score, str | bytes):
        raise TypeError
    return float(score)  # type: ignore[arg-type]
