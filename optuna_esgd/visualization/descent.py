"""Who descends from whom: main lines, the common ancestor, what each founder contributed."""

from __future__ import annotations

import numpy as np

from optuna_esgd.visualization.history import Booleans, Floats, History, Integers


def main_line(history: History, row: int) -> Integers:
    """First parents of an individual back to a founder: rows, the founder first."""
    line = [row]
    while (parent := int(history.first_parent[line[-1]])) >= 0:
        line.append(parent)
    return np.array(line[::-1], dtype=np.int64)


def common_ancestor(history: History) -> int | None:
    """Row of the latest individual on the main lines of a whole generation.

    The generation is the latest in which everyone has finished. None while its main lines lead
    to several founders.
    """
    if not history.n_individuals:
        return None
    levels = _levels(history)
    rows = np.arange(history.n_individuals)[history.rows(history.last_complete)]
    while len(rows) > 1:
        is_last = levels[rows] == levels[rows].max()  # nobody else descends from these
        parents = history.first_parent[rows[is_last]]
        if (parents < 0).any():
            return None
        rows = np.unique(np.concatenate([rows[~is_last], parents]))
    return int(rows[0])


def is_alive(history: History) -> Booleans:
    """(n,) whether an individual is on a main line that has not died out.

    Alive are the latest complete generation and whoever comes after it.
    """
    alive = np.zeros(history.n_individuals, dtype=np.bool_)
    if history.n_individuals:
        alive[history.starts[history.last_complete] :] = True
    rows = np.flatnonzero(alive)
    while len(rows):
        parents = np.unique(history.first_parent[rows])
        rows = parents[(parents >= 0) & ~alive[parents]]
        alive[rows] = True
    return alive


def founder_shares(history: History) -> Floats:
    """(G, founders) part of each generation's weights that comes from each founder.

    An individual's ancestry is the average of its parents' (its weights were, Cui et al. 2018,
    Eq. 9, up to mutation and training), a generation's the average over its individuals.
    """
    n_founders = int((history.generation == 0).sum())
    shares = np.zeros((history.n_generations, n_founders))
    if not _is_generation_by_generation(history):
        ancestry = _whole_ancestry(history, n_founders)
        for generation in range(history.n_generations):
            shares[generation] = ancestry[history.rows(generation)].mean(axis=0)
        return shares
    ancestry = np.eye(n_founders)
    for generation in range(history.n_generations):
        if generation:
            ancestry = _matrix(history, generation) @ ancestry
        shares[generation] = ancestry.mean(axis=0)
    return shares


def effective_number(shares: Floats) -> Floats:
    """(G,) how many equal founders would be as diverse: 1 / Σ share² (Hill number of order 2).

    Args:
        shares: (G, founders), each row adds up to 1.
    """
    number: Floats = 1 / np.square(shares).sum(axis=1)
    return number


def _matrix(history: History, generation: int) -> Floats:
    """(individuals, individuals of the generation before) part of each parent in each child."""
    first, last = np.searchsorted(history.child, history.starts[generation : generation + 2])
    start, end = history.starts[generation : generation + 2]
    before = history.starts[generation - 1]
    matrix = np.zeros((end - start, start - before))
    at = (history.child[first:last] - start, history.parent[first:last] - before)
    np.add.at(matrix, at, history.weight[first:last])
    return matrix


def _is_generation_by_generation(history: History) -> bool:
    """Whether all parents are of the generation before: without a barrier they need not be."""
    generation = history.generation
    return bool((generation[history.parent] == generation[history.child] - 1).all())


def _levels(history: History) -> Integers:
    """(n,) by how many births at most an individual is away from a founder."""
    if _is_generation_by_generation(history):
        return history.generation
    levels = np.zeros(history.n_individuals, dtype=np.int64)
    while True:
        later = levels.copy()
        np.maximum.at(later, history.child, levels[history.parent] + 1)
        if (later == levels).all():
            return levels
        levels = later


def _whole_ancestry(history: History, n_founders: int) -> Floats:
    """(n, founders) part of each founder in each individual, from parents to children.

    Much more memory than one generation after the other takes, where that is enough.
    """
    ancestry = np.zeros((history.n_individuals, n_founders))
    ancestry[:n_founders] = np.eye(n_founders)
    level_of_child = _levels(history)[history.child]
    for level in range(1, int(level_of_child.max(initial=0)) + 1):
        at = level_of_child == level
        parts = history.weight[at, None] * ancestry[history.parent[at]]
        np.add.at(ancestry, history.child[at], parts)
    return ancestry
