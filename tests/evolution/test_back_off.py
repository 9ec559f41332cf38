from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.evolution.back_off import BackOff, BackOffRule
from optuna_esgd.evolution.fitness import clean_fitness

NOT_FINITE = [math.nan, math.inf, -math.inf]
GUARANTEED: tuple[BackOff, ...] = ("step", "best")
back_offs = st.sampled_from(GUARANTEED)
raw = st.floats() | st.sampled_from([0.0, 1.0, *NOT_FINITE])


def run(rule: BackOffRule, fitness_of_epochs: list[float]) -> tuple[list[float], float]:
    """Train by the rule; returns where each epoch started from, and where the step ended.

    Points are told apart by their fitness, the birth by ``rule.kept_fitness``.
    """
    starts = []
    current = held = rule.kept_fitness
    for epoch, fitness in enumerate(fitness_of_epochs):
        starts.append(current)
        current = fitness
        kept = rule.is_kept(fitness)
        if kept:
            held = fitness
        if rule.must_restore(kept=kept, is_last_epoch=epoch == len(fitness_of_epochs) - 1):
            current = held
    return starts, current


@given(back_offs, raw, st.lists(raw))
def test_the_end_is_the_best_point_visited_and_never_worse_than_the_birth(
    back_off: BackOff, birth: float, epochs: list[float]
) -> None:
    rule = BackOffRule(back_off, birth)
    _, end = run(rule, epochs)
    visited = [clean_fitness(fitness) for fitness in (birth, *epochs)]
    assert end == rule.kept_fitness == min(visited)
    assert end <= clean_fitness(birth)


@given(back_offs, raw, st.lists(raw))
def test_back_offs_are_counted(back_off: BackOff, birth: float, epochs: list[float]) -> None:
    rule = BackOffRule(back_off, birth)
    n_returns = 0
    for number, fitness in enumerate(epochs):
        kept = rule.is_kept(fitness)
        n_returns += rule.must_restore(kept=kept, is_last_epoch=number + 1 == len(epochs))
    assert rule.n_back_offs == n_returns
    if back_off == "best":
        assert n_returns <= 1


def test_step_restores_after_every_worse_epoch() -> None:
    starts, end = run(BackOffRule("step", 5.0), [6.0, 4.0, 7.0, 4.5])
    assert starts == [5.0, 5.0, 4.0, 4.0]
    assert end == 4.0


def test_best_crosses_the_hill_and_returns_to_the_best_point() -> None:
    starts, end = run(BackOffRule("best", 5.0), [6.0, 4.0, 7.0, 4.5])
    assert starts == [5.0, 6.0, 4.0, 7.0]
    assert end == 4.0


def test_equal_fitness_moves_a_step_but_is_no_new_best() -> None:
    assert BackOffRule("step", 5.0).is_kept(5.0)
    assert not BackOffRule("best", 5.0).is_kept(5.0)


@pytest.mark.parametrize("back_off", GUARANTEED)
@pytest.mark.parametrize("birth", [1.0, *NOT_FINITE])
@pytest.mark.parametrize("fitness", NOT_FINITE)
def test_a_diverged_point_is_never_kept(back_off: BackOff, birth: float, fitness: float) -> None:
    assert not BackOffRule(back_off, birth).is_kept(fitness)


@pytest.mark.parametrize("back_off", GUARANTEED)
@pytest.mark.parametrize("birth", NOT_FINITE)
def test_a_diverged_birth_can_recover(back_off: BackOff, birth: float) -> None:
    rule = BackOffRule(back_off, birth)
    assert rule.is_kept(1e308)
    assert rule.kept_fitness == 1e308


@given(raw, st.lists(raw, min_size=1))
def test_without_back_off_the_end_is_the_last_point(birth: float, epochs: list[float]) -> None:
    rule = BackOffRule("none", birth)
    starts, _ = run(rule, [clean_fitness(one) for one in epochs])
    assert starts[1:] == [clean_fitness(one) for one in epochs[:-1]]
    assert rule.kept_fitness == clean_fitness(epochs[-1])
    assert rule.n_back_offs == 0


def test_without_back_off_only_the_last_point_is_scored() -> None:
    rules = [BackOffRule(one, 1.0) for one in (*GUARANTEED, "none")]
    assert [rule.is_scored(is_last_epoch=False) for rule in rules] == [True, True, False]
    assert all(rule.is_scored(is_last_epoch=True) for rule in rules)


@given(back_offs, raw, st.lists(raw, min_size=1, max_size=4))
def test_of_several_points_the_fittest_is_kept(
    back_off: BackOff, birth: float, fitness: list[float]
) -> None:
    rule = BackOffRule(back_off, birth)
    before = rule.kept_fitness
    kept = rule.keep_fittest(*fitness)
    best = min(map(clean_fitness, fitness))
    assert rule.kept_fitness == min(before, best)
    if kept is None:
        assert before <= best
    else:
        assert clean_fitness(fitness[kept]) == best
