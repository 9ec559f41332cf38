"""m-elitist selection (Cui et al. 2018, section 3.3): who survives out of μ + λ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optuna_esgd.evolution.fitness import FloatArray, rank_by_fitness


def select_survivors(
    fitness: FloatArray | Sequence[float],
    *,
    n_survivors: int,
    n_elites: int,
    rng: np.random.Generator,
) -> list[int]:
    """Keep the m best; draw the other μ - m at random from ALL the rest of the μ + λ.

    The random rest reaches every rank, not only those up to μ (which would be plain truncation).
    One deviation from the paper: diverged candidates are drawn only when there are not enough
    others, since a diverged individual must never spread.

    Args:
        fitness: (μ + λ,) lower is better; inf marks a diverged one.
        n_survivors: μ.
        n_elites: m, at most μ.
        rng: The stream of this selection.

    Returns:
        Indices of the survivors: the elites from best to worst, then the random rest.
    """
    values = np.asarray(fitness, dtype=np.float64)
    order = rank_by_fitness(values)
    elites, rest = order[:n_elites], order[n_elites:]
    finite = rest[np.isfinite(values[rest])]
    diverged = rest[~np.isfinite(values[rest])]
    drawn = np.concatenate([rng.permutation(finite), diverged])[: n_survivors - n_elites]
    return [int(index) for index in np.concatenate([elites, drawn])]
