"""Who breeds with whom: parents drawn by roulette wheel (Cui et al. 2018, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from optuna_esgd.evolution.fitness import FloatArray, rank_by_fitness

Roulette = Literal["rank", "inverse"]

_EPSILON = 1e-12


def roulette_weights(fitness: FloatArray | Sequence[float], roulette: Roulette) -> FloatArray:
    """Width of each individual's sector of the wheel.

    ``"rank"`` is linear in rank (the best of n gets n, the worst 1) and so works for any scale
    and sign. ``"inverse"`` is the paper's 1 / (ε + f). Where a fitness is negative (a maximised
    metric, say) that has no meaning; then f is the distance to the best and ε the distance between
    best and worst, so that the worst gets half the best's sector. Diverged individuals get none.

    Args:
        fitness: (individuals,) lower is better; inf marks a diverged one.
        roulette: ``"rank"`` or ``"inverse"``.

    Returns:
        (individuals,) probabilities; they sum to one, or are all zero if all diverged.
    """
    values = np.asarray(fitness, dtype=np.float64)
    finite = np.isfinite(values)
    weights = np.zeros(len(values))
    if roulette == "rank":
        weights[rank_by_fitness(values)] = np.arange(len(values), 0, -1, dtype=np.float64)
        weights[~finite] = 0.0
    elif finite.any():
        lowest = min(0.0, float(values[finite].min()))
        with np.errstate(over="ignore"):  # however far from the best: a sector, if a narrow one
            distances = np.minimum(values[finite] - lowest, np.finfo(np.float64).max / 2)
        epsilon = max(_EPSILON, float(distances.max())) if lowest < 0 else _EPSILON
        weights[finite] = 1.0 / (epsilon + distances)
    total = weights.sum()
    return weights / total if total > 0 else weights


def draw_parents(
    weights: FloatArray, *, n_parents: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """Draw ρ distinct parents of one offspring by roulette wheel.

    Where fewer than ρ individuals have a sector, all of those are parents and the others are
    drawn uniformly.

    Args:
        weights: (individuals,) from ``roulette_weights``.
        n_parents: ρ, at most the number of individuals.
        rng: The stream of this offspring.

    Returns:
        ρ distinct indices; the first one is the birth parent, from whom species and
        hyperparameters are inherited.
    """
    n_drawn = min(n_parents, int(np.count_nonzero(weights)))
    drawn = _draw_distinct(weights, n_drawn, rng)
    if n_drawn == n_parents:
        return tuple(drawn)
    others = rng.permutation(np.flatnonzero(weights == 0)).tolist()
    return tuple([*drawn, *others][:n_parents])


def _draw_distinct(weights: FloatArray, n_drawn: int, rng: np.random.Generator) -> list[int]:
    """Draw what ``rng.choice(n, n_drawn, replace=False, p=weights)`` does, number for number.

    The wheel is spun for all at once; who was hit again loses the sector, and it is spun for the
    rest. NumPy checks and sorts more than a few parents need, and takes five times as long.
    """
    drawn: list[int] = []
    left = weights
    while len(drawn) < n_drawn:
        spins = rng.random(n_drawn - len(drawn))
        if drawn:
            left = weights.copy()
            left[drawn] = 0.0
        ends = np.cumsum(left)
        ends /= ends[-1]
        drawn += dict.fromkeys(ends.searchsorted(spins, side="right").tolist())
    return drawn
