"""Rank by generation."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given

from optuna_esgd.visualization.history import BIRTHS, History
from optuna_esgd.visualization.population_raster import draw_population_raster, population_raster
from tests.visualization.histories import histories, history, one

SMALL = history(
    one(0, 0, 2.0, species="Adam"),
    one(0, 1, 1.0),
    one(1, 0, 0.5, 0, 1),
    one(1, 1, None, 0),
    maximize=True,
)


def test_cells() -> None:
    shown = population_raster(SMALL)
    assert [style.name for style in shown.styles] == ["Adam", "SGD"]
    assert shown.species.tolist() == [[1, 1], [0, -1]]
    assert shown.trial.tolist() == [[1, 10], [0, -1]]
    assert BIRTHS[shown.birth[0, 1]] == "recombination"
    assert shown.value[:, 0].tolist() == [-1.0, -2.0]
    assert math.isnan(shown.value[1, 1])


def test_drawing() -> None:
    figure = draw_population_raster(population_raster(SMALL))
    cells, *rest = figure.data
    assert np.isnan(cells.z[1][1])
    assert cells.hovertext[0][1] == "SGD, recombination: -0.5"
    assert cells.colorscale[0][1] != cells.colorscale[-1][1]
    bred = next(trace for trace in rest if trace.name == "Bred")
    assert (bred.x.tolist(), bred.y.tolist()) == ([1], [1])
    assert figure.layout.yaxis.range == (2.5, 0.5)  # the best on top


@given(histories())
def test_every_individual_has_its_cell(read: History) -> None:
    shown = population_raster(read)
    assert (shown.species >= 0).sum() == read.n_individuals
    sign = -1 if read.maximize else 1
    with np.errstate(invalid="ignore"):
        steps = np.diff(np.where(shown.species < 0, np.inf, sign * shown.value), axis=0)
    assert np.all((steps >= 0) | np.isnan(steps))
