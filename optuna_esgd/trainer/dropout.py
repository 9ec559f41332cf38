"""The dropout rate as a hyperparameter of the task."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.evolution.space import FloatRange, Value


def dropout_range(given: FloatRange | tuple[float, float]) -> FloatRange:
    """The range of rates that a user means.

    Raises:
        ConfigurationError: No range, or not within [0, 1).
    """
    if isinstance(given, tuple) and len(given) == 2:
        given = FloatRange(*given)
    if not isinstance(given, FloatRange) or not 0 <= given.low <= given.high < 1:
        raise ConfigurationError(
            f"dropout must be a range within [0, 1) such as (0.0, 0.5), got {given!r}."
        )
    return given


def set_dropout(model: nn.Module, rate: Value) -> None:
    """Give all dropout layers of a model this rate."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = float(rate)  # type: ignore[arg-type]


def check_has_dropout(model: nn.Module) -> None:
    """Refuse a model whose rate would make no difference.

    Raises:
        TaskError: There are no dropout layers.
    """
    if not any(isinstance(module, _DropoutNd) for module in model.modules()):
        raise TaskError(
            f"The dropout rate is searched, but {type(model).__name__} has no dropout layer "
            "(nn.Dropout and its kin)."
        )
