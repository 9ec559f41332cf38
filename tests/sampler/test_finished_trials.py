from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.sampler.finished_trials import (
    FinishedTrial,
    FinishedTrials,
    KnownTrials,
    trials_before,
)

N_ELITES, N_NEWEST = 3, 5


def make_trial(
    number: int, value: float | None, state: TrialState = TrialState.COMPLETE, **attributes: Any
) -> FrozenTrial:
    trial = optuna.create_trial(
        value=value,
        state=state,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        **attributes,
    )
    trial.number = number
    return trial


def running(number: int) -> FrozenTrial:
    return make_trial(number, None, TrialState.RUNNING)


def make_finished(**options: Any) -> FinishedTrials:
    return FinishedTrials(
        **{"n_elites": N_ELITES, "n_newest": N_NEWEST, "maximize": False} | options
    )


def numbers(finished: FinishedTrials, trials: Sequence[FrozenTrial]) -> list[int]:
    return [one.number for one in finished.read(trials).trials]


def expected(values: Sequence[float]) -> list[int]:
    """The definition: the m best of all, best first, then the newest of the rest."""
    ranked = sorted(range(len(values)), key=lambda number: (values[number], number))
    elites = ranked[:N_ELITES]
    rest = [number for number in range(len(values)) if number not in elites]
    return [*elites, *rest[-N_NEWEST:]]


@given(st.lists(st.integers(0, 9), max_size=60), st.data())
def test_reading_in_parts_and_out_of_order_is_reading_at_once(
    values: list[int], data: st.DataObject
) -> None:
    trials = [running(number) for number in range(len(values))]
    order = data.draw(st.permutations(range(len(values))))
    stops = data.draw(st.sets(st.integers(0, len(values))))
    finished = make_finished()
    for n_done, number in enumerate(order):
        if n_done in stops:
            finished.read(list(trials[: data.draw(st.integers(0, len(values)))]))
        trials[number] = make_trial(number, values[number])
    candidates = finished.read(trials)
    assert [one.number for one in candidates.trials] == expected(values)
    assert candidates.n_finished == len(values)
    assert numbers(make_finished(), trials) == expected(values)


def test_nobody_else_than_elites() -> None:
    trials = [make_trial(number, float(-number)) for number in range(9)]
    assert numbers(make_finished(n_newest=0), trials) == [8, 7, 6]


def test_only_complete_trials_count() -> None:
    trials = [
        make_trial(0, 1.0),
        make_trial(1, None, TrialState.FAIL),
        make_trial(2, 0.5, TrialState.PRUNED),
        running(3),
        make_trial(4, None, TrialState.WAITING),
    ]
    finished = make_finished()
    assert numbers(finished, trials) == [0]
    trials[4] = make_trial(4, 0.1)
    assert numbers(finished, trials) == [4, 0]
    trials[3] = make_trial(3, None, TrialState.FAIL)
    assert numbers(finished, trials) == [4, 0]


@pytest.mark.parametrize(("maximize", "best"), [(False, 0), (True, 1)])
def test_the_worst_fitness_is_infinite_or_infeasible(maximize: bool, best: int) -> None:
    trials = [
        make_trial(0, 1.0),
        make_trial(1, 2.0),
        make_trial(2, math.inf),
        make_trial(3, -math.inf),
        make_trial(4, -5.0 if not maximize else 5.0, constraints={"memory": 1.0}),
        make_trial(5, 1.5, constraints={"memory": -1.0}),
    ]
    candidates = make_finished(maximize=maximize, n_elites=6).read(trials).trials
    assert [one.number for one in candidates] == [best, 5, 1 - best, 2, 3, 4]
    assert [one.fitness for one in candidates[3:]] == [math.inf] * 3


def test_coordinates_are_remembered_per_range() -> None:
    one = FinishedTrial(0.0, 0, {"x": 2.0, "name": "a"})
    wide, narrow = FloatRange(0.0, 8.0), FloatRange(0.0, 4.0)
    for range_, coordinate in [(wide, 0.25), (wide, 0.25), (narrow, 0.5), (wide, 0.25)]:
        assert one.coordinate("x", range_) == coordinate
    assert one.coordinate("x", FloatRange(0.0, 1.0)) is None
    assert one.coordinate("y", wide) is None
    assert one.coordinate("name", wide) is None
    assert one.has("x", narrow)
    assert not one.has("x", FloatRange(3.0, 4.0))


def test_a_database_is_read_once_for_each_trial(tmp_path: Path) -> None:
    """Asking reads what is new; whoever was asked for by another process is found as well."""
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, study_name="s")
    elsewhere = optuna.load_study(storage=url, study_name="s")
    elsewhere.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    running = elsewhere.ask()
    trial = study.ask()
    known = trials_before(study, trial.number)
    assert isinstance(known, KnownTrials)
    assert [known[number].state for number in range(len(known))] == [
        *[TrialState.COMPLETE] * 3,
        *[TrialState.RUNNING] * 2,
    ]
    assert known[len(known)] is None
    elsewhere.tell(running, 1.0)
    study.tell(trial, 1.0)
    finished = make_finished()
    assert len(finished.read(trials_before(study, study.ask().number)).trials) == 5


def test_what_no_cache_knows_is_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(storage=url, study_name="s").optimize(lambda _trial: 1.0, n_trials=2)
    study = optuna.load_study(storage=url, study_name="s")
    assert not isinstance(trials_before(study, 2), KnownTrials), "nobody was asked for"
    assert len(trials_before(study, 2)) == 2
    in_memory = optuna.create_study()
    in_memory.optimize(lambda _trial: 1.0, n_trials=2)
    assert len(trials_before(in_memory, 2)) == 2
