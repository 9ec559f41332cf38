"""Two lists of fitness that should be the same, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task

# Relative to the size of the fitness: sums of single precision in another order stay below.
_ROUNDING = 1e-5
_ROUNDING_BFLOAT16 = 2e-2


class Difference(NamedTuple):
    """How far two lists of fitness are apart.

    Attributes:
        largest: Of one individual; 0 for the same bits, inf if only one of the two has diverged.
        relative: The same as a share of the size of fitness.
        n_differing: How many individuals differ at all.
        n_individuals: Of how many.
    """

    largest: float
    relative: float
    n_differing: int
    n_individuals: int

    @property
    def in_words(self) -> str:
        """The largest difference, and its share of the fitness."""
        if math.isinf(self.largest):
            return "from a number to none"
        return f"by up to {self.largest:.2g} ({self.relative:.2g} of the fitness)"


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Compare fitness by fitness; lower is better, inf = diverged."""
    pairs = list(zip(one, other, strict=True))
    gaps = [0.0 if a == b else abs(a - b) for a, b in pairs]
    sizes = [abs(value) for pair in pairs for value in pair if math.isfinite(value)]
    size = float(np.median(sizes)) if sizes else 1.0
    largest = max(gaps, default=0.0)
    return Difference(
        largest=largest,
        relative=largest / size if size else (math.inf if largest else 0.0),
        n_differing=sum(gap > 0 for gap in gaps),
        n_individuals=len(gaps),
    )


def rounding(task: Task) -> float:
    """The relative difference that rounding may make in a task's fitness."""
    is_coarse = isinstance(task, SupervisedTask) and task.precision == "bfloat16"
    return _ROUNDING_BFLOAT16 if is_coarse else _ROUNDING
