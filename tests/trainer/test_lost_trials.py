"""No trial stays RUNNING for ever, and a worker that was given up goes on."""

from __future__ import annotations

import time
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

import optuna_esgd as esgd
from optuna_esgd.sampler.running_trials import RunningTrials
from optuna_esgd.store.opening import find_population
from optuna_esgd.store.verification import verify_trials
from optuna_esgd.trainer import esgd_trainer
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_sgd_step import build_model, evaluate, train_epoch

SECONDS = 0.05


def lost(study: optuna.Study, seconds: float = SECONDS) -> int:
    """Look for lost trials as another worker would, which has seen them a lease ago."""
    population = find_population(study)
    assert population is not None
    others = RunningTrials()
    others.fail_lost(study, population, lease_seconds=seconds)
    time.sleep(2 * seconds)
    return others.fail_lost(study, population, lease_seconds=seconds)


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials()]


def dead_workers_trial(study: optuna.Study) -> int:
    """A trial that was asked for by a process that is no more."""
    return study._storage.get_trial_number_from_id(study._storage.create_new_trial(0))


def test_trials_of_dead_workers_fail_with_a_reason() -> None:
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=2)
    number = dead_workers_trial(study)
    assert states(study)[number] == TrialState.RUNNING
    assert lost(study) == 0
    assert states(study)[number] == TrialState.FAIL
    assert "No worker stood by" in study.trials[number].user_attrs["failure"]


@pytest.mark.parametrize("fails_elsewhere", [False, True])
def test_the_individual_of_a_dead_workers_trial_is_shown_by_another(
    fails_elsewhere: bool,
) -> None:
    study = make_study()
    trainer = esgd.ESGDTrainer(make_task())
    study.optimize(trainer, n_trials=2)
    number = dead_workers_trial(study)
    population = find_population(study)
    assert population is not None
    one = population.assign_trial(number)
    assert one is not None
    if fails_elsewhere:  # by Optuna's own heartbeat, or a worker that died right after it
        study.tell(number, state=TrialState.FAIL)
    lost(study)
    study.optimize(trainer, n_trials=2)
    shown = {one.reference: one.trial_number for one in population.individuals()}
    assert shown[one.reference] == number + 1
    assert verify_trials(study, population) == []


def test_trials_with_a_living_worker_are_not_lost() -> None:
    study = make_study(lease_seconds=0.2)
    trainer = esgd.ESGDTrainer(make_task())
    study.optimize(trainer, n_trials=1)
    trial = study.ask()  # waits in this process for its turn
    time.sleep(0.3)
    assert lost(study, seconds=0.3) == 1
    study.tell(trial, trainer(trial))
    assert states(study) == [TrialState.COMPLETE] * 2


def test_a_worker_that_was_given_up_goes_on_with_a_new_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after SIGSTOP for longer than a lease."""
    study = make_study()
    show, silent = esgd_trainer.show_individual, [1]

    def wake_up_late(trial: optuna.Trial, *arguments: Any) -> None:
        if trial.number in silent:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            RunningTrials().fail_lost(study, find_population(study), lease_seconds=60)
        show(trial, *arguments)

    monkeypatch.setattr(esgd_trainer, "show_individual", wake_up_late)
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=4)
    assert states(study) == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        *[TrialState.COMPLETE] * 3,
    ]
    population = find_population(study)
    assert population is not None
    assert [one.trial_number for one in population.individuals(generation=0)[:4]] == [0, 2, 3, 4]
    assert verify_trials(study, population) == []


def test_a_step_that_was_given_up_does_not_end_the_worker() -> None:
    study = make_study(lease_seconds=SECONDS)

    def stopped(trial: optuna.Trial) -> float:
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), trial.suggest_float("lr", 0.01, 0.1))
        with esgd.sgd_step(trial, model, evaluate, optimizer=optimizer) as step:
            for _ in step.epochs(1):
                train_epoch(model, optimizer)
            if trial.number == 0:
                step._held_slots._of(study).slots[0].lease.close()  # the process stands still
                time.sleep(2 * SECONDS)
                thief = step._population.claim(
                    step._claim.slot.key, worker="thief", lease_seconds=SECONDS
                )
                assert thief is not None
        return step.fitness

    study.optimize(stopped, n_trials=5)
    first, replacement, *others = study.get_trials()
    assert first.state == TrialState.FAIL
    assert "ran out during training" in first.user_attrs["failure"]
    assert replacement.state == TrialState.PRUNED
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 4
