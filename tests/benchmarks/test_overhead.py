"""The contenders of ``overhead`` do what they are timed for."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from optuna_esgd.store.verification import verify_trials
from tests.benchmarks.overhead import (
    NAMES,
    PLAIN,
    POPULATION,
    Trained,
    add_plain_study,
    contenders,
    measure,
)


def test_every_contender_makes_the_trials_it_is_asked_for(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    trained = Trained.open(template)
    trained.train(POPULATION)
    trained.close()
    add_plain_study(template, 20)
    for name, make in contenders(template, tmp_path, POPULATION).items():
        make()
        ours = name.startswith("by_")
        study = optuna.load_study(
            storage=f"sqlite:///{tmp_path}/{name}.db",
            study_name="trained" if ours else PLAIN,
        )
        trials = study.get_trials()
        assert len(trials) == POPULATION + (POPULATION if ours else 20)
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        assert [trial.number for trial in trials] == list(range(len(trials)))
        said = trials[-1].user_attrs.keys()
        assert said == (set(NAMES) if ours or name == "said" else set())
    population = Trained.open(tmp_path / "by_cohort.db").loop.population
    study = optuna.load_study(storage=f"sqlite:///{tmp_path}/by_cohort.db", study_name="trained")
    assert verify_trials(study, population) == []


@pytest.mark.slow
def test_ratios_are_reported() -> None:
    report = measure(n_before=(POPULATION, 2 * POPULATION), n_trials=POPULATION, n_rounds=1)
    assert len(report.rows) == 3 * 4
    assert all(row.value > 0 for row in report.rows)
    assert set(report.raw) == {"16", "32"}
