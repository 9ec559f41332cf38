"""Spread of values per generation, and gaps to the best."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given

from optuna_esgd.visualization.fitness_by_generation import (
    draw_fitness_by_generation,
    fitness_by_generation,
)
from optuna_esgd.visualization.history import History
from tests.visualization.histories import histories, history, one
from tests.visualization.studies import toy_history


def small(**settings: object) -> History:
    return history(
        *(one(0, number, fitness) for number, fitness in enumerate([4.0, 2.0, 8.0, math.inf])),
        *(one(1, number, fitness, 0) for number, fitness in enumerate([1.0, 2.0, 3.0])),
        one(1, 3, None, 0),
        **{"n_elites": 2, **settings},
    )


def test_minimised() -> None:
    shown = fitness_by_generation(small())
    assert shown.values.best.tolist() == [2.0, 1.0]
    assert shown.values.median.tolist() == [4.0, 2.0]
    assert shown.values.worst.tolist() == [8.0, 3.0]
    assert shown.values.elite_mean[0] == 3.0
    assert math.isnan(shown.values.elite_mean[1])  # half a generation promises nothing
    assert shown.best_so_far.tolist() == [2.0, 1.0]
    assert shown.gaps_are_relative
    assert shown.gaps.median.tolist() == [1.0, 1.0]
    assert shown.n_diverged.tolist() == [1, 0]


def test_maximised_values_have_the_user_s_sign_and_the_same_gaps() -> None:
    shown = fitness_by_generation(small(maximize=True))
    assert shown.values.best.tolist() == [-2.0, -1.0]
    assert shown.values.worst.tolist() == [-8.0, -3.0]
    assert shown.best_so_far.tolist() == [-2.0, -1.0]
    assert shown.gaps.median.tolist() == [1.0, 1.0]


def test_gaps_are_absolute_where_the_best_passes_zero() -> None:
    shown = fitness_by_generation(history(one(0, 0, 1.0), one(1, 0, -1.0, 0)))
    assert not shown.gaps_are_relative


@given(histories())
def test_order_and_best_so_far(read: History) -> None:
    shown = fitness_by_generation(read)
    sign = -1 if read.maximize else 1
    columns = [sign * one for one in shown.values[:5]]
    for better, worse in itertools.pairwise(columns):
        assert np.all((better <= worse + 1e-9) | np.isnan(better))
    best = sign * shown.best_so_far
    assert np.all(np.diff(best[~np.isnan(best)]) <= 0)
    for gap in shown.gaps:
        assert np.all((gap >= 0) | np.isnan(gap))


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_elite_s_mean_never_gets_worse(direction: str) -> None:
    read = toy_history(8, 6, direction=direction)
    shown = fitness_by_generation(read)
    sign = -1 if direction == "maximize" else 1
    assert np.all(np.diff(sign * shown.values.elite_mean) <= 0)


def test_drawing() -> None:
    figure = draw_fitness_by_generation(fitness_by_generation(small()))
    assert figure.layout.title.text == "Fitness by Generation (1 Diverged)"
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert names == ["All", "Middle half", "Median", "Mean of the 2 best", "Best so far"]
    dashed = [trace for trace in figure.data if trace.line.dash == "dash"]
    assert {trace.name for trace in dashed} == {"Mean of the 2 best"}
    assert figure.layout.yaxis2.ticksuffix == "%"
    assert figure.layout.yaxis.type is None


def test_log_axes_where_they_help() -> None:
    wide = history(*(one(g, 0, 10.0**-g, *([0] if g else [])) for g in range(5)))
    figure = draw_fitness_by_generation(fitness_by_generation(wide))
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis2.type is None  # one individual: no gap


def test_a_single_generation_can_be_seen() -> None:
    """It is all there is while the first one trains the second time."""
    read = history(*(one(0, number, fitness) for number, fitness in enumerate([4.0, 2.0, 8.0])))
    figure = draw_fitness_by_generation(fitness_by_generation(read))
    areas = [trace for trace in figure.data if trace.fill == "tonexty"]
    assert [list(trace.x) for trace in areas] == [[-0.25, 0.25]] * 4
    everybody = next(trace for trace in areas if trace.name == "All")
    assert list(everybody.y) == [2.0, 2.0]
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert {trace.name for trace in points} == {"Best so far", "Median", "Mean of the 1 best"}


def test_wide_gaps_are_read_in_percent() -> None:
    read = history(one(0, 0, 1.0), one(0, 1, 100.0), one(1, 0, 0.9, 0), one(1, 1, 0.95, 0))
    figure = draw_fitness_by_generation(fitness_by_generation(read))
    assert figure.layout.yaxis2.type == "log"
    assert figure.layout.yaxis2.exponentformat == "none"
    assert figure.layout.yaxis.exponentformat == "power"
