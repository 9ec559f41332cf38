"""The family tree."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
from hypothesis import given

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.visualization.genealogy import draw_genealogy, genealogy, plot_genealogy
from optuna_esgd.visualization.history import History
from tests.visualization.histories import histories
from tests.visualization.studies import toy_study
from tests.visualization.test_descent import FAMILY


def test_the_best_s_line() -> None:
    shown = genealogy(FAMILY)
    assert shown.line.tolist() == [1, 3, 6]
    assert shown.others.tolist() == []
    assert shown.ancestor_generation == 0


def test_a_trial_s_line_and_its_other_parents() -> None:
    shown = genealogy(FAMILY, target=21)
    assert shown.line.tolist() == [1, 4, 7]
    assert shown.others.tolist() == [[4, 0], [7, 3]]


@pytest.mark.parametrize("target", [999, -1])
def test_a_trial_without_individual_is_refused(target: int) -> None:
    with pytest.raises(ConfigurationError, match=f"trial {target} shows none"):
        genealogy(FAMILY, target=target)


def test_a_target_may_be_a_trial() -> None:
    study = toy_study(4, 2)
    study.add_trial(optuna.trial.create_trial(value=0.0))
    by_trial = plot_genealogy(study, study.trials[0])
    assert by_trial.to_json() == plot_genealogy(study, 0).to_json()


@given(histories())
def test_lines_to_first_parents_never_cross(read: History) -> None:
    shown = genealogy(read)
    for generation in range(1, read.n_generations):
        rows = np.arange(read.n_individuals)[read.rows(generation)]
        ends = sorted((shown.position[r], shown.position[shown.first_parent[r]]) for r in rows)
        assert [position for position, _ in ends] == list(range(len(rows)))
        assert all(one <= other for (_, one), (_, other) in itertools.pairwise(ends))


def test_drawing() -> None:
    figure = draw_genealogy(genealogy(FAMILY, target=21))
    assert figure.layout.title.text == "Genealogy (Common Ancestor in Generation 0)"
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["Main line"].x.tolist()[:2] == [1, 0]
    assert by_name["Other parents"].line.dash == "dot"
    assert by_name["Main line"].line.width > by_name["Alive"].line.width
    star = by_name["Target of the main line"]
    assert star.customdata[0].tolist() == [21.0, 1.0, 1.5]
    n_lines = sum(np.isnan(by_name[name].x).sum() for name in ("Died out", "Alive"))
    assert n_lines == 6  # one per individual that is no founder
