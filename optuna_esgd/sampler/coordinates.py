"""Hyperparameters as coordinates: where a value lies in its range, on the range's own scale.

A *coordinate* is a number in [0, 1]; equal parts of it are equally likely to be drawn. Whole and
gridded numbers and choices own a cell of it each.

Notation: n = number of grid points or choices.
"""

from __future__ import annotations

import math

from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range, Scale, Value


def to_coordinate(range_: FloatRange | IntRange, value: float) -> float:
    """Where in the range a number lies."""
    low, high = _bounds(range_)
    if low == high:
        return 0.5
    coordinate = (_to_scale(range_.scale, value) - low) / (high - low)
    return min(max(coordinate, 0.0), 1.0)


def to_value(range_: Range, coordinate: float) -> Value:
    """The value at a coordinate, in Python's own type.

    Args:
        range_: Its range.
        coordinate: In [0, 1].
    """
    if isinstance(range_, Choices):
        n = len(range_.values)
        return range_.values[min(int(coordinate * n), n - 1)]
    low, high = _bounds(range_)
    number = _from_scale(range_.scale, low + coordinate * (high - low))
    if range_.step is not None:
        # Never beyond the last grid point: its cell ends half a step above it.
        n_steps = math.floor((range_.high - range_.low) / range_.step + 1e-9)
        nearest = round((number - range_.low) / range_.step)
        number = range_.low + min(max(nearest, 0), n_steps) * range_.step
    inside = min(max(number, range_.low), range_.high)
    return int(inside) if isinstance(range_, IntRange) else float(inside)


def cell_width(range_: FloatRange | IntRange) -> float:
    """The part of the coordinate that one grid point owns on average; 0 without a grid."""
    if range_.step is None:
        return 0.0
    return 1.0 / (math.floor((range_.high - range_.low) / range_.step + 1e-9) + 1)


def reflect(coordinate: float) -> float:
    """Reflect at 0 and 1, as often as it takes to come inside."""
    offset = coordinate % 2.0
    return offset if offset <= 1.0 else 2.0 - offset


def _bounds(range_: FloatRange | IntRange) -> tuple[float, float]:
    """What the coordinates 0 and 1 stand for, on the range's scale."""
    margin = 0.0 if range_.step is None else range_.step / 2
    return (
        _to_scale(range_.scale, range_.low - margin),
        _to_scale(range_.scale, range_.high + margin),
    )


def _to_scale(scale: Scale, value: float) -> float:
    if scale == "log":
        return math.log(value)
    return math.log1p(-value) if scale == "one_minus" else float(value)


def _from_scale(scale: Scale, position: float) -> float:
    if scale == "log":
        return math.exp(position)
    return -math.expm1(position) if scale == "one_minus" else position
