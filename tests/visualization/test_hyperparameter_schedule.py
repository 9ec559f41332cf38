"""Hyperparameters by generation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.store.opening import open_results
from optuna_esgd.visualization.history import read_history
from optuna_esgd.visualization.hyperparameter_schedule import (
    draw_hyperparameter_schedule,
    hyperparameter_schedule,
    plot_hyperparameter_schedule,
)
from tests.visualization.histories import history, one
from tests.visualization.studies import toy_study

MIXED = history(
    one(0, 0, 1.0, species="Adam", hyperparameters={"lr": 0.1, "amsgrad": True}),
    one(0, 1, 2.0, hyperparameters={"lr": 0.001, "schedule": None}),
    one(1, 0, 0.5, 0, species="Adam", hyperparameters={"lr": 0.2, "amsgrad": False}),
    one(1, 1, 3.0, 0, hyperparameters={"lr": 1, "schedule": "cosine"}),
)


def test_species_share_rows() -> None:
    shown = hyperparameter_schedule(MIXED)
    rows = {row.name: row for row in shown.rows}
    assert next(iter(rows)) == "lr"  # what most of them have comes first
    lr = rows["lr"]
    assert lr.value.tolist() == [0.1, 0.001, 0.2, 1.0]
    assert lr.generation.tolist() == [0, 0, 1, 1]
    assert lr.is_log
    assert lr.on_line.tolist() == [True, False, True, False]
    assert lr.is_elite.tolist() == [True, False, True, False]
    assert rows["amsgrad"].choices == ("False", "True")
    assert rows["amsgrad"].value.tolist() == [1, 0]
    assert rows["schedule"].choices == ("None", "cosine")


def test_rows_can_be_chosen() -> None:
    shown = hyperparameter_schedule(MIXED, ["schedule"])
    assert [row.name for row in shown.rows] == ["schedule"]
    with pytest.raises(ConfigurationError, match=r"'momentum'; there are .*'lr'"):
        hyperparameter_schedule(MIXED, ["lr", "momentum"])
    figure = plot_hyperparameter_schedule(toy_study(4, 2), ["lr"])
    assert [axis.title.text for axis in figure.select_yaxes()] == ["lr"]


def test_at_most_six_unless_chosen() -> None:
    many = history(one(0, 0, 1.0, hyperparameters={f"p{k}": float(k) for k in range(9)}))
    assert len(hyperparameter_schedule(many).rows) == 6
    assert len(hyperparameter_schedule(many, [f"p{k}" for k in range(9)]).rows) == 9


def test_one_outlier_does_not_make_an_axis_logarithmic() -> None:
    values = [0.0001] + [0.5 + 0.01 * k for k in range(40)]
    flat = history(*(one(0, k, 1.0, hyperparameters={"x": v}) for k, v in enumerate(values)))
    assert not hyperparameter_schedule(flat).rows[0].is_log


@pytest.mark.parametrize("is_log", [True, False])
def test_an_axis_follows_the_scale_that_is_searched(is_log: bool) -> None:
    """However the values lie: of the toy's, those of the learning rates alone spread widely."""
    study = toy_study(6, 4)
    guessed = {row.name: row.is_log for row in hyperparameter_schedule(read_history(study)).rows}
    assert guessed["lr"]
    assert not guessed["beta"]
    for founder in open_results(study).individuals(generation=0):
        given = {
            name: FloatDistribution(1e-6, 1.0, log=is_log)
            if name in ("lr", "beta")
            else CategoricalDistribution([value])
            for name, value in founder.hyperparameters.items()
        }
        values = dict(founder.hyperparameters)
        study.add_trial(optuna.trial.create_trial(value=1.0, params=values, distributions=given))
    rows = {row.name: row for row in hyperparameter_schedule(read_history(study)).rows}
    assert rows["lr"].is_log is rows["beta"].is_log is is_log


def test_no_axis_is_logarithmic_where_a_value_is_zero() -> None:
    """One name may have had several ranges, and the first of them only is looked at."""
    ones = [one(0, k, 1.0, hyperparameters={"x": value}) for k, value in enumerate((0.0, 0.5))]
    both = replace(history(*ones), is_log={"x": True})
    assert not hyperparameter_schedule(both).rows[0].is_log


def test_drawing() -> None:
    figure = draw_hyperparameter_schedule(hyperparameter_schedule(MIXED, ["lr", "amsgrad"]))
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis2.ticktext == ("False", "True")
    adam = next(trace for trace in figure.data if trace.name == "Adam")
    sgd = next(trace for trace in figure.data if trace.name == "SGD")
    assert adam.marker.symbol != sgd.marker.symbol
    assert min(adam.marker.size) > max(sgd.marker.size)  # elites are larger
    line = next(trace for trace in figure.data if trace.mode == "lines")
    assert line.y == pytest.approx(np.array([0.1, 0.2], dtype=np.float32))
    in_legend = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(in_legend) == ["Adam", "Main line of the best", "SGD"]
