"""Species' shares of population and elite."""

from __future__ import annotations

import pytest
from hypothesis import given

from optuna_esgd.visualization.history import History
from optuna_esgd.visualization.species_share import draw_species_share, species_share
from tests.visualization.histories import histories, history, one

PAIR = history(
    one(0, 0, 1.0, species="Adam"),
    one(0, 1, 2.0),
    one(1, 0, 2.0, 0),
    one(1, 1, 1.0, 0),
)


def test_shares() -> None:
    shown = species_share(PAIR)
    assert [style.name for style in shown.styles] == ["Adam", "SGD"]
    assert shown.population.tolist() == [[0.5, 0.5], [0, 1]]
    assert shown.elite.tolist() == [[1, 0], [0, 1]]


@given(histories())
def test_shares_add_up(read: History) -> None:
    shown = species_share(read)
    assert shown.population.sum(axis=1) == pytest.approx(1.0)
    assert shown.elite.sum(axis=1) == pytest.approx(1.0)


def test_drawing() -> None:
    figure = draw_species_share(species_share(PAIR))
    assert [(t.name, t.y.tolist(), t.showlegend) for t in figure.data] == [
        ("Adam", [50, 0], True),
        ("SGD", [50, 100], True),
        ("Adam", [100, 0], False),
        ("SGD", [0, 100], False),
    ]
    assert figure.layout.barmode == "stack"
    patterns = {trace.name: trace.marker.pattern.shape for trace in figure.data}
    assert patterns["Adam"] != patterns["SGD"]


def test_a_species_without_a_name() -> None:
    figure = draw_species_share(species_share(history(one(0, 0, 1.0, species=""))))
    assert figure.data[0].name == "(no name)"
