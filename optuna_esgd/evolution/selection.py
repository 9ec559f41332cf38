"""Who survives: m-elitist selection out of μ + λ, and the truncation of PBT.

Sources: Cui et al. 2018, section 3.3; Jaderberg et al. 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from optuna_esgd.evolution.fitness import FloatArray, rank_by_fitness

Selection = Literal["elitist", "truncation"]


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


def truncate(fitness: FloatArray | Sequence[float], *, rng: np.random.Generator) -> list[int]:
    """Let each of the worst quarter go on as a copy of a random one of the best quarter.

    A quarter of fewer than four individuals is one of them. Whoever is in neither quarter, or in
    the best one, keeps its place (truncation selection, after Jaderberg et al. 2017, who
    take fifths).

    Args:
        fitness: (μ,) at least two; lower is better; inf marks a diverged one.
        rng: The stream of this selection.

    Returns:
        For each place the index of who goes on there; its own except in the worst quarter.
    """
    order = rank_by_fitness(np.asarray(fitness, dtype=np.float64))
    n_replaced = max(1, len(order) // 4)
    survivors = list(range(len(order)))
    for place in order[-n_replaced:]:
        survivors[place] = int(order[rng.integers(n_replaced)])
    return survivors
