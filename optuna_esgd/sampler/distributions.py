"""Optuna's distributions as ranges of ``evolution.space``, and back."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.evolution.space import (
    Choices,
    FloatRange,
    IntRange,
    Range,
    Scale,
    Value,
    is_same_choice,
)

# From here on a linear range below 1 is taken for one of values that live near 1.
_NEAR_ONE = 0.9


def to_range(distribution: BaseDistribution) -> Range:
    """The range of values a distribution describes.

    A linear range of floats inside [0, 1) that reaches 0.9 or more is one of momentum, betas and
    the like, and so gets the scale ``"one_minus"``.

    Raises:
        ConfigurationError: The distribution is of an unknown kind, or its bounds are not finite.
    """
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return _number_range(distribution)
    if isinstance(distribution, CategoricalDistribution):
        return Choices(distribution.choices)
    raise _unknown_kind(distribution)


# Not for choices: distributions over (1, 0) and (True, False) are equal.
@lru_cache(maxsize=1024)
def _number_range(distribution: FloatDistribution | IntDistribution) -> FloatRange | IntRange:
    if isinstance(distribution, IntDistribution):
        scale: Scale = "log" if distribution.log else "linear"
        return IntRange(distribution.low, distribution.high, scale, distribution.step)
    low, high = distribution.low, distribution.high
    scale = _float_scale(low, high, log=distribution.log, step=distribution.step)
    return FloatRange(low, high, scale, distribution.step)


def to_distribution(range_: Range) -> BaseDistribution:
    """The distribution Optuna shows a range as.

    Optuna knows no scale near 1 and no grid on a log scale: such a range shows as a linear one.
    Its bounds stay (the upper one moves down to the grid, as Optuna would move it).
    """
    match range_:
        case Choices(values):
            return CategoricalDistribution(values)
        case FloatRange(low, high, scale, None):
            return FloatDistribution(low, high, log=scale == "log")
        case FloatRange(low, high, _, step):
            exact = Decimal(str(step))
            lowest = Decimal(str(low))
            n_steps = (Decimal(str(high)) - lowest) // exact
            return FloatDistribution(low, float(lowest + n_steps * exact), step=step)
        case IntRange(low, high, scale, step):
            is_log = scale == "log" and step == 1
            return IntDistribution(low, high - (high - low) % step, log=is_log, step=step)


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Value:
    """Suggest a value over a distribution through Optuna's public methods."""
    value: Value
    match distribution:
        case FloatDistribution(low=low, high=high, log=log, step=step):
            value = trial.suggest_float(name, low, high, log=log, step=step)
        case IntDistribution(low=low, high=high, log=log, step=step):
            value = trial.suggest_int(name, low, high, log=log, step=step)
        case CategoricalDistribution(choices=choices):
            value = trial.suggest_categorical(name, choices)
        case _:
            raise _unknown_kind(distribution)
    return value


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether a distribution holds a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError, OverflowError):
        return False


def plain_value(distribution: BaseDistribution, value: Value) -> Value:
    """A value in Python's own type for its distribution, or the very choice it equals.

    Raises:
        StudyError: The distribution does not hold the value.
    """
    if not contains(distribution, value):
        raise StudyError(f"{value!r} is not a value of {distribution!r}.")
    if isinstance(distribution, CategoricalDistribution):
        # To Optuna True and 1 are one choice; ranges tell them apart.
        for choice in distribution.choices:
            if is_same_choice(choice, value):
                return choice
    plain: Value = distribution.to_external_repr(distribution.to_internal_repr(value))
    return plain


def _float_scale(low: float, high: float, *, log: bool, step: float | None) -> Scale:
    if log:
        return "log"
    is_near_one = step is None and low >= 0 and _NEAR_ONE <= high < 1
    return "one_minus" if is_near_one else "linear"


def _unknown_kind(distribution: BaseDistribution) -> ConfigurationError:
    return ConfigurationError(
        "ESGD knows FloatDistribution, IntDistribution and CategoricalDistribution, got "
        f"{distribution!r}."
    )
