from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.selection import select_survivors, truncate
from tests.evolution.statistics import assert_frequencies

cleaned = st.floats().map(clean_fitness)


@st.composite
def selections(draw: st.DrawFn) -> tuple[list[float], int, int, int]:
    """Fitness of μ + λ candidates, μ, m and a seed."""
    fitness = draw(st.lists(cleaned | st.integers(0, 2).map(float), min_size=1, max_size=20))
    n_survivors = draw(st.integers(1, len(fitness)))
    return fitness, n_survivors, draw(st.integers(1, n_survivors)), draw(st.integers(0, 99))


@given(selections())
def test_survivors_are_distinct_and_led_by_the_best(
    selection: tuple[list[float], int, int, int],
) -> None:
    fitness, n_survivors, n_elites, seed = selection
    survivors = select_survivors(
        fitness, n_survivors=n_survivors, n_elites=n_elites, rng=stream(seed)
    )
    assert len(survivors) == len(set(survivors)) == n_survivors
    assert all(type(index) is int and 0 <= index < len(fitness) for index in survivors)
    assert [fitness[index] for index in survivors[:n_elites]] == sorted(fitness)[:n_elites]


@given(selections())
def test_diverged_ones_survive_only_where_others_are_missing(
    selection: tuple[list[float], int, int, int],
) -> None:
    fitness, n_survivors, n_elites, seed = selection
    survivors = select_survivors(
        fitness, n_survivors=n_survivors, n_elites=n_elites, rng=stream(seed)
    )
    n_finite = sum(map(math.isfinite, fitness))
    assert sum(math.isfinite(fitness[index]) for index in survivors) == min(n_finite, n_survivors)


def random_rests(n_draws: int) -> list[tuple[int, ...]]:
    """The random rest of μ = 5, m = 2 out of 9 candidates, again and again."""
    fitness = [float(rank) for rank in range(9)]
    return [
        tuple(select_survivors(fitness, n_survivors=5, n_elites=2, rng=stream(0, draw))[2:])
        for draw in range(n_draws)
    ]


def test_the_random_rest_reaches_every_rank_alike() -> None:
    """Ranks beyond μ too: drawing from ranks m..μ only would be plain truncation."""
    drawn = [index for rest in random_rests(3000) for index in rest]
    assert_frequencies(drawn, dict.fromkeys(range(2, 9), 1 / 7))


def test_the_random_rest_is_a_uniform_subset() -> None:
    subsets = list(itertools.combinations(range(2, 9), 3))
    drawn = [tuple(sorted(rest)) for rest in random_rests(3000)]
    assert_frequencies(drawn, dict.fromkeys(subsets, 1 / len(subsets)))


@given(
    st.lists(cleaned | st.integers(0, 2).map(float), min_size=2, max_size=20), st.integers(0, 9)
)
def test_truncation_replaces_the_worst_quarter_by_copies_of_the_best(
    fitness: list[float], seed: int
) -> None:
    n_replaced = max(1, len(fitness) // 4)
    survivors = truncate(fitness, rng=stream(seed))
    assert len(survivors) == len(fitness)
    replaced = [place for place, origin in enumerate(survivors) if origin != place]
    assert len(replaced) == n_replaced
    best, worst = sorted(fitness)[:n_replaced], sorted(fitness)[-n_replaced:]
    assert sorted(fitness[place] for place in replaced) == worst
    assert all(fitness[survivors[place]] <= best[-1] for place in replaced)


def test_truncation_copies_each_of_the_best_quarter_alike() -> None:
    fitness = [float(rank) for rank in range(8)]
    drawn = [origin for draw in range(2000) for origin in truncate(fitness, rng=stream(draw))[6:]]
    assert_frequencies(drawn, {0: 1 / 2, 1: 1 / 2})
