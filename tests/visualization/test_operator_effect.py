"""Births of the elite, gains of training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

from optuna_esgd.visualization.history import BIRTHS, History
from optuna_esgd.visualization.operator_effect import draw_operator_effect, operator_effect
from optuna_esgd.visualization.population_raster import draw_population_raster, population_raster
from tests.visualization.histories import histories, history, one

FEW = history(
    one(0, 0, 1.0, birth_fitness=9.0),
    one(0, 1, 2.0, birth_fitness=9.0),
    one(1, 0, 0.5, 0, birth_fitness=1.0),
    one(1, 1, 0.75, 0, 1, birth_fitness=1.5),
    one(2, 0, -1.5, 0, birth_fitness=-1.0),
    one(2, 1, math.inf, 0, 1, birth_fitness=math.inf),
)


def test_births_of_the_elite() -> None:
    shown = operator_effect(FEW)
    assert [BIRTHS[at] for at in shown.elite_shares.argmax(axis=1)] == [
        "founder",
        "elite",
        "elite",
    ]


def test_gains_are_parts_of_the_value_at_birth() -> None:
    gains = operator_effect(FEW).gains
    assert sorted(gains) == ["elite", "recombination"]  # founders gain everything
    assert gains["elite"].tolist() == [0.5] * 5
    assert gains["recombination"].tolist() == [0.5] * 5  # who diverged has no gain


@pytest.mark.parametrize(
    ("born", "ended", "is_relative", "gain"),
    [
        (0.001, -5.0, False, 5.001),
        (-1.0, 1.0, False, -2.0),
        (0.0, -2.0, False, 2.0),
        (2.0, 0.0, True, 1.0),
        (0.0, 0.0, True, 0.0),
    ],
)
def test_across_zero_gains_are_differences(
    born: float, ended: float, is_relative: bool, gain: float
) -> None:
    """A value that nearly was zero at birth has changed by thousands of percent."""
    shown = operator_effect(history(one(0, 0, 9.0), one(1, 0, ended, 0, birth_fitness=born)))
    assert shown.is_relative is is_relative
    assert shown.gains["elite"] == pytest.approx([gain] * 5)
    figure = draw_operator_effect(shown)
    box = next(trace for trace in figure.data if trace.type == "box")
    assert box.median[0] == pytest.approx(100 * gain if is_relative else gain)
    assert ("Part" in figure.layout.xaxis2.title.text) is is_relative
    assert (figure.layout.xaxis2.ticksuffix == "%") is is_relative


@given(histories())
def test_shares_add_up(read: History) -> None:
    shown = operator_effect(read)
    assert shown.elite_shares.sum(axis=1) == pytest.approx(1.0)
    assert all(np.all(np.diff(quantiles) >= 0) for quantiles in shown.gains.values())


def test_drawing() -> None:
    figure = draw_operator_effect(operator_effect(FEW))
    boxes = [trace for trace in figure.data if trace.type == "box"]
    assert [box.name for box in boxes] == ["Elite", "Recombination"]
    assert list(boxes[0].median) == [50.0]
    bars = [trace.name for trace in figure.data if trace.type == "bar"]
    assert bars == ["Founder", "Elite", "Survivor by luck", "Recombination"]


@pytest.mark.parametrize("selection", ["elitist", "truncation"])
def test_survivors_of_truncation_are_copies(selection: str) -> None:
    read = history(one(0, 0, 2.0), one(1, 0, 1.0, 0, birth="survivor"), selection=selection)
    named = {trace.name for trace in draw_operator_effect(operator_effect(read)).data}
    marked = {trace.name for trace in draw_population_raster(population_raster(read)).data}
    is_copy = selection == "truncation"
    assert ("Copy of one of the best" in named, "Survivor by luck" in named) == (
        is_copy,
        not is_copy,
    )
    assert ("Copy of one of the best" in marked, "Survived by luck" in marked) == (
        is_copy,
        not is_copy,
    )
