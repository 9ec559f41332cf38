from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.evolution.fitness import clean_fitness, mean_of_best, rank_by_fitness

cleaned = st.floats(allow_nan=False).map(clean_fitness)


@pytest.mark.parametrize("fitness", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_the_worst(fitness: float) -> None:
    assert clean_fitness(fitness) == math.inf


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_fitness_is_left_alone(fitness: float) -> None:
    assert clean_fitness(fitness) == fitness


@given(st.lists(cleaned))
def test_ranking_is_best_first_and_stable(fitness: list[float]) -> None:
    expected = sorted(range(len(fitness)), key=lambda i: fitness[i])  # Python's sort is stable
    assert rank_by_fitness(fitness).tolist() == expected


@given(st.lists(cleaned, min_size=1), st.data())
def test_means_are_the_means_of_the_sorted_fitness(
    fitness: list[float], data: st.DataObject
) -> None:
    n_elites = data.draw(st.integers(1, len(fitness)))
    means = mean_of_best(fitness, n_elites)
    assert len(means) == n_elites
    assert means[0] == min(fitness)
    for r, mean in enumerate(means, start=1):
        best = sorted(fitness)[:r]
        if math.inf in best:
            assert mean == math.inf
        elif max(map(abs, best)) < 1e300:
            assert mean == pytest.approx(
                math.fsum(best) / r, rel=1e-9, abs=1e-9 * max(map(abs, best))
            )


@given(st.lists(st.tuples(cleaned, cleaned), min_size=1))
def test_no_mean_gets_worse_where_no_fitness_does(pairs: list[tuple[float, float]]) -> None:
    """The certificate's comparison is exact: rounding and overflow never break it."""
    before = mean_of_best([max(pair) for pair in pairs], len(pairs))
    after = mean_of_best([min(pair) for pair in pairs], len(pairs))
    assert (after <= before).all()


def test_overflow_neither_warns_nor_makes_nan() -> None:
    means = mean_of_best([-1.7e308, -1.7e308, math.inf, math.inf], 4)
    assert means.tolist() == [-1.7e308, -math.inf, math.inf, math.inf]


def test_the_argument_is_not_sorted_in_place() -> None:
    fitness = np.array([3.0, 1.0, 2.0])
    mean_of_best(fitness, 2)
    assert fitness.tolist() == [3.0, 1.0, 2.0]
