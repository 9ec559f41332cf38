"""Trials appear with their individuals, in one transaction, each once."""

from __future__ import annotations

import threading
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from optuna_esgd.engine.individual import Individual
from optuna_esgd.store import trial_rows
from optuna_esgd.store.storages import create_storage
from optuna_esgd.store.trial_rows import TrialRows, find_trial_rows
from tests.store.studies import open_small, start

DISTRIBUTIONS = {
    "species": CategoricalDistribution(("SGD", "Adam")),
    "lr": FloatDistribution(1e-3, 1.0, log=True),
}


def describe(one: Individual, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    return optuna.create_trial(
        state=state,
        value=None if state == TrialState.RUNNING else one.fitness,
        params={"species": "Adam", "lr": 0.1},
        distributions=DISTRIBUTIONS,
        user_attrs={"individual": one.reference.number, "birth": one.birth},
    )


def make_study(url: str) -> tuple[optuna.Study, TrialRows]:
    """Two individuals are finished, and nobody shows them."""
    study = optuna.create_study(storage=create_storage(url))
    population = open_small(study)
    start(population)
    rows = find_trial_rows(study, population)
    assert rows is not None
    assert find_trial_rows(study, population) is rows
    return study, rows


def test_complete_trials_say_what_optunas_own_would(database_url: str) -> None:
    study, rows = make_study(database_url)
    study.enqueue_trial({"lr": 0.5})  # numbers go on where Optuna's end
    assert rows.show_finished(describe) == 2
    assert rows.show_finished(describe) == 0
    study.add_trial(study.get_trials()[1])  # and Optuna's go on where these end
    queued, *shown, added = study.get_trials()
    assert [one.number for one in (queued, *shown, added)] == [0, 1, 2, 3]
    for ours, theirs in ((shown[0], added), (shown[1], added)):
        assert (ours.state, ours.params) == (theirs.state, theirs.params)
        assert ours.distributions == theirs.distributions
        assert ours.datetime_complete is not None
        assert abs((ours.datetime_complete - theirs.datetime_complete).total_seconds()) < 60
    assert [one.user_attrs["individual"] for one in shown] == [0, 1]
    assert study.best_trial.user_attrs["birth"] == "founder"
    population = open_small(study)
    assert [one.trial_number for one in population.individuals()] == [1, 2, None, None]


def test_whoever_races_shows_each_individual_once(database_url: str) -> None:
    study, rows = make_study(database_url)
    barrier, shown = threading.Barrier(3), []

    def show() -> None:
        barrier.wait()
        shown.append(rows.show_finished(describe))

    threads = [threading.Thread(target=show) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(shown) == [0, 0, 2]
    assert [one.number for one in study.get_trials()] == [0, 1]


def test_a_trial_that_fails_to_be_made_leaves_nothing(database_url: str) -> None:
    study, rows = make_study(database_url)

    def fail(one: Individual) -> FrozenTrial:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rows.show_finished(fail)
    assert study.get_trials() == []
    assert rows.show_finished(describe) == 2


def test_running_trials_are_described_until_they_end(database_url: str) -> None:
    study, rows = make_study(database_url)
    trial = study.ask()
    trial.set_user_attr("birth", "said before")
    trial.set_user_attr("mine", 1)
    described = describe(open_small(study).individuals()[0], TrialState.RUNNING)
    for _ in range(2):  # as after a commit whose answer was lost
        rows.describe_running(trial._trial_id, described)
    study.tell(trial, 1.0)
    (shown,) = study.get_trials()
    assert shown.params == described.params
    assert shown.distributions == DISTRIBUTIONS
    assert shown.user_attrs == {**described.user_attrs, "mine": 1}
    with pytest.raises(UpdateFinishedTrialError, match="COMPLETE"):
        rows.describe_running(trial._trial_id, described)


def test_diverged_individuals_have_infinite_values(database_url: str) -> None:
    study, rows = make_study(database_url)

    def diverged(one: Individual) -> FrozenTrial:
        return optuna.create_trial(value=float("inf"))

    rows.show_finished(diverged)
    assert [one.value for one in study.get_trials()] == [float("inf")] * 2


def test_weights_elsewhere_are_not_shown_together(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    population = open_small(study, store=f"sqlite:///{tmp_path}/weights.db")
    assert find_trial_rows(study, population) is None
    in_memory = optuna.create_study()
    assert find_trial_rows(in_memory, open_small(in_memory)) is None


def test_tables_of_another_optuna_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {**trial_rows._COLUMNS, "trial_params": "param_id trial_id param_name value"}
    monkeypatch.setattr(trial_rows, "_COLUMNS", columns)
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    assert find_trial_rows(study, open_small(study)) is None
