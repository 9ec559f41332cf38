from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.mating import Roulette, draw_parents, roulette_weights
from optuna_esgd.evolution.randomness import stream
from tests.evolution.statistics import assert_frequencies

roulettes = st.sampled_from(get_args(Roulette))
populations = st.lists(
    st.floats().map(clean_fitness) | st.integers(-2, 2).map(float), min_size=1, max_size=12
)


@given(populations, roulettes)
def test_weights_are_probabilities_that_favour_the_fitter(
    fitness: list[float], roulette: Roulette
) -> None:
    weights = roulette_weights(fitness, roulette)
    assert (weights >= 0).all()
    if any(map(math.isfinite, fitness)):
        assert weights.sum() == pytest.approx(1.0)
    for (f, w), (g, v) in itertools.combinations(zip(fitness, weights, strict=True), 2):
        if f != g:
            assert (w >= v) == (f < g) or w == v


@given(populations, roulettes)
def test_diverged_ones_get_no_sector(fitness: list[float], roulette: Roulette) -> None:
    weights = roulette_weights(fitness, roulette)
    assert (weights[~np.isfinite(fitness)] == 0).all()


@given(populations, roulettes)
def test_all_others_get_one(fitness: list[float], roulette: Roulette) -> None:
    """However far from the best: else a diverged one might be drawn before them."""
    assert (roulette_weights(fitness, roulette) > 0).tolist() == np.isfinite(fitness).tolist()


def test_rank_weights_are_linear_in_rank() -> None:
    assert roulette_weights([30.0, -1.0, 7.0, 8.0], "rank") == pytest.approx([0.1, 0.4, 0.3, 0.2])


def test_inverse_weights_are_the_papers() -> None:
    assert roulette_weights([1.0, 2.0, 4.0], "inverse") == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@given(populations, roulettes, st.data())
def test_parents_are_distinct(
    fitness: list[float], roulette: Roulette, data: st.DataObject
) -> None:
    n_parents = data.draw(st.integers(1, len(fitness)))
    rng = stream(data.draw(st.integers(0, 99)))
    parents = draw_parents(roulette_weights(fitness, roulette), n_parents=n_parents, rng=rng)
    assert len(set(parents)) == len(parents) == n_parents
    assert all(type(index) is int and 0 <= index < len(fitness) for index in parents)


@given(populations, roulettes, st.data())
def test_a_diverged_parent_comes_only_where_others_are_missing(
    fitness: list[float], roulette: Roulette, data: st.DataObject
) -> None:
    n_parents = data.draw(st.integers(1, len(fitness)))
    rng = stream(data.draw(st.integers(0, 99)))
    parents = draw_parents(roulette_weights(fitness, roulette), n_parents=n_parents, rng=rng)
    is_finite = [math.isfinite(fitness[index]) for index in parents]
    assert sum(is_finite) == min(n_parents, sum(map(math.isfinite, fitness)))
    assert is_finite == sorted(is_finite, reverse=True), "the birth parent must be a finite one"


def test_distances_that_overflow_still_give_a_sector() -> None:
    weights = roulette_weights([-1.7e308, 1.7e308, math.inf], "inverse")
    assert weights[0] > weights[1] > weights[2] == 0


FITNESS = {"rank": [3.0, 1.0, math.inf, 2.0], "inverse": [0.5, 0.25, math.inf, 1.0]}
WHEELS = {"rank": [2 / 9, 4 / 9, 0, 3 / 9], "inverse": [2 / 7, 4 / 7, 0, 1 / 7]}


@pytest.mark.parametrize("roulette", get_args(Roulette))
def test_the_birth_parent_is_drawn_by_roulette(roulette: Roulette) -> None:
    weights = roulette_weights(FITNESS[roulette], roulette)
    drawn = [draw_parents(weights, n_parents=1, rng=stream(1, i))[0] for i in range(3000)]
    assert_frequencies(drawn, dict(enumerate(WHEELS[roulette])))


@pytest.mark.parametrize("roulette", get_args(Roulette))
def test_the_second_parent_is_drawn_from_what_is_left_of_the_wheel(roulette: Roulette) -> None:
    wheel = WHEELS[roulette]
    expected = {
        (i, j): wheel[i] * wheel[j] / (1 - wheel[i])
        for i, j in itertools.permutations(range(4), 2)
    }
    weights = roulette_weights(FITNESS[roulette], roulette)
    drawn = [draw_parents(weights, n_parents=2, rng=stream(2, i)) for i in range(3000)]
    assert_frequencies(drawn, expected)


def test_too_few_eligible_ones_are_all_parents_in_the_order_of_the_wheel() -> None:
    weights = roulette_weights([2.0, math.inf, 1.0, math.inf], "rank")
    drawn = [draw_parents(weights, n_parents=3, rng=stream(3, i)) for i in range(2000)]
    wheel = {0: 3 / 7, 2: 4 / 7}
    expected = {(i, j, k): wheel[i] / 2 for i, j in [(0, 2), (2, 0)] for k in (1, 3)}
    assert_frequencies(drawn, expected)


def test_where_all_diverged_parents_are_drawn_uniformly() -> None:
    weights = roulette_weights([math.inf] * 4, "rank")
    drawn = [draw_parents(weights, n_parents=2, rng=stream(4, i)) for i in range(2000)]
    assert_frequencies(drawn, dict.fromkeys(itertools.permutations(range(4), 2), 1 / 12))


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_parents_are_those_that_numpy_would_choose(
    sectors: list[int], n_parents: int, seed: int
) -> None:
    weights = np.array(sectors, dtype=np.float64) ** 4
    weights /= weights.sum()
    n_drawn = min(n_parents, int(np.count_nonzero(weights)))
    chosen = stream(seed).choice(len(weights), size=n_drawn, replace=False, p=weights)
    drawn = draw_parents(weights, n_parents=min(n_parents, len(weights)), rng=stream(seed))
    assert list(drawn[:n_drawn]) == chosen.tolist()
