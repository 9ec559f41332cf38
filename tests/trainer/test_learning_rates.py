"""Ranges of learning rates by a range test."""

from __future__ import annotations

import logging

import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.species import SGD, Adam, Species
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_memory import Counting


def bounds(species: Species) -> tuple[float, float]:
    range_ = species.space["lr"]
    assert isinstance(range_, FloatRange)
    assert range_.scale == "log"
    return range_.low, range_.high


def test_ranges_become_narrower_and_repeat() -> None:
    """Plain descent on this task diverges somewhere within the range."""
    task = make_task("dropout")
    wide = [SGD(lr=(1e-4, 1e4)), Adam(lr=(1e-6, 1e2))]
    first, second = (esgd.narrow_learning_rates(task, wide, n_steps=50) for _ in range(2))
    assert [repr(one) for one in first] == [repr(one) for one in second]
    for before, after in zip(wide, first, strict=True):
        low, high = bounds(after)
        assert bounds(before)[0] < low < high < bounds(before)[1]
        assert {**after.space, "lr": None} == {**before.space, "lr": None}
        assert bounds(before) in ((1e-4, 1e4), (1e-6, 1e2))  # the given ones stay
    other = esgd.narrow_learning_rates(task, wide, n_steps=50, seed=1)
    assert repr(other) != repr(first)


def test_those_that_cannot_be_tested_stay_as_they_are() -> None:
    species = ["ConditionedMutation", "NonlinearCG", "EntropySGD", SGD(lr=0.1), torch.optim.LBFGS]
    narrowed = esgd.narrow_learning_rates(make_task(), species, n_steps=5)
    plain = esgd.ESGDTrainer(make_task(), species=species).species.values()
    assert [repr(one) for one in narrowed] == [repr(one) for one in plain]


def test_a_range_in_which_nothing_trains_stays(caplog: pytest.LogCaptureFixture) -> None:
    species = SGD(lr=(1e3, 1e5), momentum=0.0)
    with caplog.at_level(logging.WARNING, "optuna_esgd"):
        (same,) = esgd.narrow_learning_rates(make_task(), [species], n_steps=5, smoothing=0.0)
    assert bounds(same) == (1e3, 1e5)
    assert "No learning rate of species 'SGD' made the loss fall" in caplog.text


def test_a_start_outside_of_them_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    low, high = bounds(esgd.narrow_learning_rates(make_task(), [SGD(lr=(1e-4, 1e4))])[0])
    for start, is_kept in ((1e-4, False), ((low * high) ** 0.5, True)):
        caplog.clear()
        species = SGD(lr=FloatRange(1e-4, 1e4, "log", start=start))
        (narrowed,) = esgd.narrow_learning_rates(make_task(), [species])
        assert narrowed.space["lr"] == FloatRange(
            low, high, "log", start=start if is_kept else None
        )
        assert ("do not start at 0.0001, which is outside" in caplog.text) != is_kept


def test_a_study_trains_within_them_and_remembers_them() -> None:
    task = make_task()
    narrowed = esgd.narrow_learning_rates(task, ["SGD"], n_steps=30)
    low, high = bounds(narrowed[0])
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task, species=narrowed), n_trials=8)
    assert all(low <= trial.params["lr"] <= high for trial in study.trials)
    with pytest.raises(ConfigurationError, match="species 'SGD'"):
        study.optimize(esgd.ESGDTrainer(task, species=["SGD"]), n_trials=1)


def test_refuses_tasks_without_a_declared_loss_and_bad_arguments() -> None:
    with pytest.raises(ConfigurationError, match="only a SupervisedTask declares, got Counting"):
        esgd.narrow_learning_rates(Counting(1.0), ["SGD"])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="n_steps must be a whole number >= 2, got 1"):
        esgd.narrow_learning_rates(make_task(), ["SGD"], n_steps=1)
    with pytest.raises(ConfigurationError, match="does not search 'lr' over real numbers"):
        SGD(lr=0.1).narrowed("lr", 0.1, 0.2)
