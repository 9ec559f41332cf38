"""Which values hyperparameters may have, and what is said about others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import torch

from optuna_esgd.errors import ConfigurationError


class Limit(NamedTuple):
    """What must hold for a value, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    is_tensor = isinstance(value, torch.Tensor) and value.numel() == 1
    return is_tensor or (isinstance(value, Real) and not isinstance(value, bool))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


NOT_NEGATIVE = Limit("a number of at least 0", lambda v: _is_number(v) and 0 <= v < math.inf)
POSITIVE = Limit("a number above 0", lambda v: _is_number(v) and 0 < v < math.inf)
POSITIVE_OR_INF = Limit("a number above 0, or inf", lambda v: _is_number(v) and v > 0)
BELOW_ONE = Limit("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1)
UNIT = Limit("a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1)
SHARE = Limit("a number in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1)
COUNT = Limit("a whole number of at least 1", lambda v: _is_whole(v) and v >= 1)
FLAG = Limit("True or False", lambda v: isinstance(v, bool | int) and v in (0, 1))
NOT_NEGATIVE_OR_NONE = Limit(
    "None or a number of at least 0", lambda v: v is None or NOT_NEGATIVE.holds(v)
)


def one_of(*values: str) -> Limit:
    """One of a few words."""
    return Limit("one of " + ", ".join(map(repr, values)), lambda v: v in values)


def check_limits(limits: Mapping[str, Limit], settings: Mapping[str, Any]) -> None:
    """Refuse the first setting that is out of its limits.

    Raises:
        ConfigurationError: Which one, what it must be, and what came.
    """
    for name, limit in limits.items():
        if not limit.holds(settings[name]):
            raise ConfigurationError(f"{name} must be {limit.words}, got {settings[name]!r}.")
