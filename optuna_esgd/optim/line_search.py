"""How far to go along a direction: to where the slope is small and the loss has fallen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

_SUFFICIENT = 1e-4  # of the fall that the first slope promises (Armijo 1966)
_GROWTH = 10.0  # of the length, at most, while the slope still falls
_SHRINKAGE = 0.2  # of the bracket, where the slope at its far end says nothing


class Point(NamedTuple):
    """A length along the direction, with the loss and its slope there."""

    length: float
    loss: float
    slope: float


def search_line(
    evaluate: Callable[[float], Point], start: Point, *, n_evaluations: int, tolerance: float
) -> float:
    """Find a length by secants on the slope, kept in a bracket (Dowell & Jarratt 1971).

    On a quadratic the second evaluation is already at the minimum.

    Args:
        evaluate: Loss and slope at a length; the first tried is 1.
        start: Length 0; its slope is below 0.
        n_evaluations: At most.
        tolerance: Done where the slope is at most this share of the first.

    Returns:
        The length of the lowest loss seen that has fallen enough; 0 if none has.
    """
    best, bracket, length = start, _Bracket(start), 1.0
    for _ in range(n_evaluations):
        point = evaluate(length)
        has_fallen = point.loss <= start.loss + _SUFFICIENT * point.length * start.slope
        if has_fallen and point.loss < best.loss:
            best = point
        if has_fallen and abs(point.slope) <= tolerance * abs(start.slope):
            return point.length
        length = bracket.narrow(point, has_fallen=has_fallen)
        if not math.isfinite(length):
            break
    return best.length


@dataclass
class _Bracket:
    """Where the minimum must be: beyond ``near``, whose slope falls, and before ``far``."""

    near: Point
    far: Point | None = None

    def narrow(self, point: Point, *, has_fallen: bool) -> float:
        """Take a new point as one of the ends; returns the next length to try."""
        if has_fallen and point.slope < 0:
            previous, self.near = self.near, point
            if self.far is None:
                return _extrapolate(previous, point)
            # The end that stays counts half, so that it cannot stay for ever.
            self.far = self.far._replace(slope=self.far.slope / 2)
        else:
            if self.far is not None:
                self.near = self.near._replace(slope=self.near.slope / 2)
            self.far = point
        width = self.far.length - self.near.length
        if math.isfinite(self.far.loss) and 0 < self.far.slope < math.inf:
            share = self.near.slope / (self.near.slope - self.far.slope)
            return self.near.length + share * width
        return self.near.length + _SHRINKAGE * width


def _extrapolate(previous: Point, point: Point) -> float:
    """Where the slope would be 0, if it went on changing as it did."""
    change = point.slope - previous.slope
    longest = _GROWTH * point.length
    if change <= 0:
        return longest
    secant = point.length - point.slope * (point.length - previous.length) / change
    return min(max(secant, point.length), longest)
