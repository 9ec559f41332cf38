"""Search spaces of hyperparameters, and how a value is drawn or inherited.

A range has a *scale* on which its values are spread evenly: ``"linear"``, ``"log"``, or
``"one_minus"`` (log of 1 - x, for values that live near 1, such as momentum and betas).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

import numpy as np

from optuna_esgd.errors import ConfigurationError

Scale = Literal["linear", "log", "one_minus"]
Value: TypeAlias = float | int | str | bool | None

_LARGEST = sys.float_info.max  # whole numbers may be larger, and then have no logarithm
_SHRINK, _GROW = 0.8, 1.25  # Jaderberg et al. 2017, section 4: perturb by 0.8 or 1.25


def _as_text(range_: FloatRange | IntRange) -> str:
    """A range as it has always been written where nothing is said about founders.

    Studies remember ranges in these words.
    """
    return f"{type(range_).__name__}({_in_words(range_)})"


@dataclass(frozen=True)
class FloatRange:
    """Real values in [low, high], on a grid of ``step`` from ``low`` on where one is given.

    ``start`` is what half of the founders begin with where hyperparameters are inherited, the
    others draw; None for all of them to draw.
    """

    low: float
    high: float
    scale: Scale = "linear"
    step: float | None = None
    start: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty range, or one its scale does not cover."""
        _check_range(self)

    __repr__ = _as_text


@dataclass(frozen=True)
class IntRange:
    """Whole numbers low, low + step, .. up to high; ``start`` as in ``FloatRange``."""

    low: int
    high: int
    scale: Scale = "linear"
    step: int = 1
    start: int | None = None

    def __post_init__(self) -> None:
        """Refuse an empty range, or one its scale does not cover."""
        _check_range(self)

    __repr__ = _as_text


@dataclass(frozen=True)
class Choices:
    """One of a few values without an order."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Refuse an empty set."""
        if not self.values:
            raise ConfigurationError("Choices needs at least one value, got none.")


Range: TypeAlias = FloatRange | IntRange | Choices
Space: TypeAlias = Mapping[str, Range]


def _check_range(range_: FloatRange | IntRange) -> None:
    name, low, high = type(range_).__name__, range_.low, range_.high
    is_whole = isinstance(range_, IntRange)
    kind, wanted = (int, "whole") if is_whole else ((int, float), "real")
    optional = [one for one in (range_.step, range_.start) if one is not None]
    numbers = [low, high, *([range_.step] if is_whole else ()), *optional]
    if any(isinstance(number, bool) or not isinstance(number, kind) for number in numbers):
        raise ConfigurationError(f"{name} needs {wanted} numbers, got {_in_words(range_)}.")
    if not -_LARGEST <= low <= high <= _LARGEST:
        raise ConfigurationError(
            f"{name} needs finite bounds with low <= high, got [{low}, {high}]."
        )
    if range_.step is not None and not 0 < range_.step <= _LARGEST:
        raise ConfigurationError(f"{name} needs step > 0, got {range_.step!r}.")
    if range_.scale not in ("linear", "log", "one_minus"):
        raise ConfigurationError(
            f"{name} needs the scale 'linear', 'log' or 'one_minus', got {range_.scale!r}."
        )
    if range_.scale == "log" and low <= 0:
        raise ConfigurationError(f"A log range needs low > 0, got [{low}, {high}].")
    if range_.scale == "one_minus" and high >= 1:
        raise ConfigurationError(f"A one_minus range needs high < 1, got [{low}, {high}].")
    start = range_.start
    if start is not None and not (
        low <= start <= high and math.isclose(_snap(range_, start), start)
    ):
        grid = "" if range_.step is None else f" in steps of {range_.step}"
        raise ConfigurationError(
            f"{name} needs a start that it holds, got {start!r} for [{low}, {high}]{grid}."
        )


def _in_words(range_: FloatRange | IntRange) -> str:
    names = [one.name for one in fields(range_) if one.name != "start" or range_.start is not None]
    return ", ".join(f"{name}={getattr(range_, name)!r}" for name in names)


def resample(range_: Range, rng: np.random.Generator) -> Value:
    """Draw a value from the whole range, evenly on its scale."""
    if isinstance(range_, Choices):
        return range_.values[int(rng.integers(len(range_.values)))]
    if range_.scale == "linear" and range_.step is not None:
        return _snap(range_, range_.low + int(rng.integers(_n_steps(range_) + 1)) * range_.step)
    low, high = _coordinates(range_)
    return _snap(range_, _from_scale(range_.scale, float(rng.uniform(low, high))))


def begin(range_: Range, rng: np.random.Generator) -> Value:
    """What a founder begins with: the range's start where it has one, else a value drawn."""
    if isinstance(range_, Choices) or range_.start is None:
        return resample(range_, rng)
    return _snap(range_, range_.start)


def with_start(range_: FloatRange, start: float | None) -> FloatRange:
    """The range with the start of a wider one, if its bounds hold that; else as it is."""
    if start is None or not contains(range_, start):
        return range_
    return replace(range_, start=_snap(range_, start))


def middle(range_: Range) -> Value:
    """The value in the middle of a range, on its scale; the first of several choices."""
    if isinstance(range_, Choices):
        return range_.values[0]
    return _snap(range_, _from_scale(range_.scale, sum(_coordinates(range_)) / 2))


def perturb(
    range_: Range, value: Value, *, resample_probability: float, rng: np.random.Generator
) -> Value:
    """Inherit a value with a small change.

    Numbers are multiplied by 0.8 or 1.25 (on the one_minus scale: 1 - x is) and reflected at the
    bounds; whole and gridded numbers move by at least one step. On a linear range that reaches
    below zero or starts at it, the distance from ``low`` is what is multiplied. Choices are drawn
    anew with ``resample_probability``. So is any value that the range no longer holds.

    Returns:
        A value inside the range.
    """
    if rng.random() < resample_probability * isinstance(range_, Choices):
        return resample(range_, rng)
    if not contains(range_, value):
        return resample(range_, rng)
    if isinstance(range_, Choices) or range_.low == range_.high:
        return value
    assert isinstance(value, int | float)  # noqa: S101  (contains() has checked it)
    factor = _SHRINK if rng.random() < 0.5 else _GROW
    moved = _snap(range_, _multiply(range_, float(value), factor))
    if range_.step is None or _position(range_, moved) != _position(range_, value):
        return moved
    return _neighbour(range_, value, direction=1 if factor > 1 else -1)


def contains(range_: Range, value: Value) -> bool:
    """Whether the range holds the value."""
    if isinstance(range_, Choices):
        return any(is_same_choice(value, choice) for choice in range_.values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return range_.low <= value <= range_.high


def is_same_choice(one: Value, other: Value) -> bool:
    """Whether two choices are one: of a type and equal, NaN to NaN as well."""
    if type(one) is not type(other):
        return False
    return one == other or (one != one and other != other)  # noqa: PLR0124  (NaN)


def _multiply(range_: FloatRange | IntRange, value: float, factor: float) -> float:
    if range_.scale == "one_minus":
        return _reflect(range_, 1.0 - (1.0 - value) * factor)
    origin = range_.low if range_.scale == "linear" and range_.low <= 0 else 0.0
    return _reflect(range_, origin + (value - origin) * factor)


def _reflect(range_: FloatRange | IntRange, value: float) -> float:
    """Reflect at the bounds on the range's scale, as often as it takes to come inside."""
    low, high = _coordinates(range_)
    position = _to_scale(range_.scale, value)
    width = high - low
    # A position that was inside already must not suffer from the arithmetic of the reflection;
    # and different bounds may round to one point of the scale, which leaves nothing to reflect.
    if low <= position <= high or width == 0:
        return value
    offset = (position - low) % (2 * width)
    return _from_scale(range_.scale, low + (offset if offset <= width else 2 * width - offset))


def _coordinates(range_: FloatRange | IntRange) -> tuple[float, float]:
    """The bounds on the scale, in ascending order."""
    a, b = _to_scale(range_.scale, range_.low), _to_scale(range_.scale, range_.high)
    return (a, b) if a <= b else (b, a)


def _to_scale(scale: Scale, value: float) -> float:
    if scale == "log":
        return math.log(value)
    return math.log(1.0 - value) if scale == "one_minus" else float(value)


def _from_scale(scale: Scale, position: float) -> float:
    if scale == "log":
        return math.exp(position)
    return 1.0 - math.exp(position) if scale == "one_minus" else position


def _n_steps(range_: FloatRange | IntRange) -> int:
    """How many grid steps fit between the bounds."""
    return math.floor((range_.high - range_.low) / (range_.step or math.inf) + 1e-9)


def _position(range_: FloatRange | IntRange, value: float) -> int:
    """The number of the grid point nearest to a value; 0 where there is no grid."""
    position = round((value - range_.low) / (range_.step or math.inf))
    return min(max(position, 0), _n_steps(range_))


def _neighbour(
    range_: FloatRange | IntRange, value: float, *, direction: Literal[-1, 1]
) -> float | int:
    """One grid step in this direction, or in the other one where the range ends here."""
    position = _position(range_, value)
    if not 0 <= position + direction <= _n_steps(range_):
        direction = -1 if direction == 1 else 1
    return _snap(range_, range_.low + (position + direction) * (range_.step or 0))


def _snap(range_: FloatRange | IntRange, value: float) -> float | int:
    """Bring a number onto the range's grid and inside its bounds."""
    if range_.step is not None:
        value = range_.low + _position(range_, value) * range_.step
    if isinstance(range_, IntRange):
        return int(value)
    return float(min(max(value, range_.low), range_.high))
