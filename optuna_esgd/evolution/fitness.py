"""Fitness values: always minimised, diverged is ``inf``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def clean_fitness(fitness: float) -> float:
    """Map NaN and both infinities to ``inf``, the worst possible fitness."""
    return fitness if math.isfinite(fitness) else math.inf


def rank_by_fitness(fitness: FloatArray | Sequence[float]) -> npt.NDArray[np.intp]:
    """Order individuals from best to worst; ties keep their order, so that ranking is stable."""
    return np.argsort(np.asarray(fitness, dtype=np.float64), kind="stable")


def mean_of_best(fitness: FloatArray | Sequence[float], n_elites: int) -> FloatArray:
    """Mean fitness of the r best for r = 1 .. ``n_elites``: the certificate of Theorem 1.

    The sum runs from the best on, in order. Rounded addition is monotone, so if every sorted
    fitness is no worse than before, no mean is worse either: the comparison is exact. A mean over
    a diverged one is inf, also where the sum of the others overflows to -inf.

    Args:
        fitness: (individuals,) lower is better; inf marks a diverged one.
        n_elites: m, at most the number of individuals.

    Returns:
        (n_elites,) means; none of them gets worse from one generation to the next
        (Cui et al. 2018, Theorem 1 and Corollary 1).
    """
    best = np.sort(np.asarray(fitness, dtype=np.float64))[:n_elites]
    with np.errstate(over="ignore", invalid="ignore"):
        means: FloatArray = np.cumsum(best) / np.arange(1, len(best) + 1)
    means[best == np.inf] = np.inf
    return means
