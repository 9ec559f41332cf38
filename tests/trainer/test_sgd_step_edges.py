"""``sgd_step`` in objectives that prune, fail, break, repeat, or run in many processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.errors import StudyError, TaskError
from optuna_esgd.store.opening import find_population, open_results
from optuna_esgd.store.verification import verify
from optuna_esgd.trainer.loop import WorkLoop
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_sgd_step import (
    build_model,
    evaluate,
    evaluate_now,
    objective,
    train_epoch,
)

ROOT = Path(__file__).parents[2]
ONE_TRIAL = """
import sys
from tests.trainer.studies import make_study
from tests.trainer.test_sgd_step import objective
make_study(storage=sys.argv[1]).optimize(objective, n_trials=1)
"""


@pytest.mark.slow
def test_a_process_per_trial_is_the_same_as_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    for _ in range(6):
        subprocess.run([sys.executable, "-c", ONE_TRIAL, url], cwd=ROOT, check=True)
    apart = make_study(storage=url)
    together = make_study()
    together.optimize(objective, n_trials=6)
    assert [t.params for t in apart.trials] == [t.params for t in together.trials]
    assert [t.values for t in apart.trials] == [t.values for t in together.trials]


def test_threads_give_the_same_as_one_thread() -> None:
    runs = []
    for n_jobs in (1, 3):
        study = make_study()
        study.optimize(seeded_by_individual, n_trials=4, n_jobs=n_jobs)
        everyone = open_results(study).individuals(generation=0)
        runs.append([(one.hyperparameters, one.fitness) for one in everyone])
    assert runs[0] == runs[1]


def seeded_by_individual(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    model = build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(lr)
    with esgd.sgd_step(trial, model, evaluate) as step:
        pass
    return step.fitness


def test_pruning_before_the_step_does_not_hand_out_the_same_for_ever() -> None:
    study = make_study()
    study.optimize(objective, n_trials=1)

    def picky(trial: optuna.Trial) -> float:
        if trial.suggest_float("lr", 1e-3, 1e-1, log=True) > 0.01:
            raise optuna.TrialPruned
        return objective(trial)

    study.optimize(picky, n_trials=30)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) >= 4
    assert verify(open_results(study)) == []


def test_an_objective_without_a_step_takes_nobody_s_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = make_study()
    study.optimize(objective, n_trials=2)
    study.optimize(lambda trial: trial.suggest_float("lr", 1e-3, 1e-1, log=True), n_trials=5)
    assert "without esgd.sgd_step" in caplog.text
    slots = open_results(study).slots()
    assert all(slot.n_failures == 0 for slot in slots)
    study.optimize(objective, n_trials=2)
    assert [t.user_attrs["generation"] for t in study.trials if t.user_attrs] == [0] * 4


def test_what_is_asked_for_after_the_step_is_refused() -> None:
    """It would not be inherited, and the trial had claimed another individual for it."""

    def late(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.suggest_float("lr", 1e-3, 1e-1, log=True)  # known already
        trial.suggest_float("late", 0, 1)
        return value

    study = make_study()
    study.optimize(objective, n_trials=1)
    for _ in range(2):
        with pytest.raises(StudyError, match="asks for a hyperparameter after its SGD step"):
            study.optimize(late, n_trials=1)
    study.optimize(objective, n_trials=5)
    assert verify(open_results(study)) == []
    assert all(slot.n_failures == 0 for slot in open_results(study).slots())


def test_a_value_that_is_not_the_individuals_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = make_study()
    study.optimize(objective, n_trials=2)
    assert "return step.fitness" not in caplog.text
    study.optimize(lambda trial: objective(trial) * 2, n_trials=1)
    fitness = open_results(study).individual_of_trial(2)
    assert fitness is not None
    assert f"Trial 2 returned {study.trials[2].value!r}, but the fitness" in caplog.text
    assert f"is {fitness.fitness!r}" in caplog.text


def test_pruning_within_the_step_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def prune(trial: optuna.Trial) -> float:
        model = build_model()
        with esgd.sgd_step(trial, model, evaluate):
            raise optuna.TrialPruned

    study = make_study()
    study.optimize(prune, n_trials=1)
    assert "A population needs no pruner" in caplog.text
    study.optimize(objective, n_trials=5)
    assert verify(open_results(study)) == []


@pytest.mark.parametrize("door", ["trainer", "step"])
def test_a_trial_of_no_study_is_refused(door: str) -> None:
    objectives: dict[str, Any] = {
        "trainer": esgd.ESGDTrainer(make_task()),
        "step": lambda trial: esgd.sgd_step(trial, build_model(), evaluate),
    }
    with pytest.raises(StudyError, match="needs a trial of a study, got FixedTrial"):
        objectives[door](optuna.trial.FixedTrial({"lr": 0.1}))


def test_a_step_is_a_block() -> None:
    def without(trial: optuna.Trial) -> float:
        step = esgd.sgd_step(trial, build_model(), evaluate)
        return sum(step.epochs())

    def afterwards(trial: optuna.Trial) -> float:
        with esgd.sgd_step(trial, build_model(), evaluate) as step:
            pass
        return sum(step.epochs())

    for wrong in (without, afterwards):
        with pytest.raises(StudyError, match="begins and ends with its block"):
            make_study().optimize(wrong, n_trials=1)


def test_who_waits_for_a_slot_does_not_hold_up_who_has_one() -> None:
    """One thread waits at its first suggestion while two others come to their SGD step."""
    is_asking, numbers = threading.Event(), []

    def slow(trial: optuna.Trial) -> float:
        numbers.append(trial.number)
        if len(numbers) == 5:  # four individuals: there is none for this trial yet
            is_asking.set()
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        model = build_model()
        is_asking.wait(timeout=30)
        time.sleep(0.2)
        with esgd.sgd_step(trial, model, evaluate) as step:
            for _ in step.epochs():
                train_epoch(model, torch.optim.SGD(model.parameters(), lr))
        return step.fitness

    study = make_study()
    study.optimize(objective, n_trials=4)  # so that it is known what is trained
    runs = threading.Thread(target=lambda: study.optimize(slow, n_trials=8, n_jobs=5), daemon=True)
    runs.start()
    runs.join(timeout=60)
    assert not runs.is_alive()
    assert verify(open_results(study)) == []


def test_threads_do_not_drive_one_loop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trial's loop does for the next generation, and claiming with it, take turns."""
    inside: dict[int, int] = {}
    overlaps: list[int] = []

    def alone(method: Any) -> Any:
        def called(loop: WorkLoop, *arguments: Any) -> Any:
            me = threading.get_ident()
            before = inside.setdefault(id(loop), me)
            if before != me:
                overlaps.append(me)
            try:
                time.sleep(0.002)
                return method(loop, *arguments)
            finally:
                if before == me:
                    inside.pop(id(loop), None)

        return called

    monkeypatch.setattr(WorkLoop, "decide", alone(WorkLoop.decide))
    monkeypatch.setattr(WorkLoop, "act", alone(WorkLoop.act))
    study = make_study(n_epochs=1, n_generations=6)
    study.optimize(seeded_by_individual, n_trials=24, n_jobs=4)
    assert overlaps == []
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 24
    assert verify(open_results(study)) == []


def test_studies_that_share_a_sampler_do_not_mix() -> None:
    sampler = esgd.ESGDSampler(4, seed=1, n_epochs=1)
    one = optuna.create_study(sampler=sampler)
    other = optuna.create_study(sampler=sampler)
    one.optimize(objective, n_trials=2)
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert [slot.attempt for slot in open_results(one).slots()] == [1, 1, 0, 0]
    other_too = optuna.create_study(sampler=sampler)
    other_too.optimize(objective, n_trials=4)
    one.optimize(objective, n_trials=2)
    for study in (one, other_too):
        assert verify(open_results(study)) == []


def test_one_trial_has_one_step() -> None:
    def greedy(trial: optuna.Trial) -> float:
        first = objective(trial)
        with esgd.sgd_step(trial, build_model(), evaluate):
            pass
        return first

    with pytest.raises(StudyError, match="has had its SGD step"):
        make_study().optimize(greedy, n_trials=1)


def fail() -> None:
    raise RuntimeError("out of cheese")


def test_a_step_that_failed_can_be_tried_again_in_the_same_trial() -> None:
    def persistent(trial: optuna.Trial) -> float:
        try:
            with esgd.sgd_step(trial, build_model(), evaluate):
                fail()
        except RuntimeError:
            return objective(trial)

    study = make_study()
    study.optimize(persistent, n_trials=4)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4
    assert verify(open_results(study)) == []


def test_leaving_epochs_early_scores_and_returns_to_the_best() -> None:
    def hasty(trial: optuna.Trial) -> float:
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with esgd.sgd_step(trial, model, evaluate) as step:
            for number in step.epochs(10):
                train_epoch(model, optimizer)
                if number == 1:
                    with torch.no_grad():
                        for parameter in model.parameters():
                            parameter.add_(1000.0)
                    break
        assert evaluate_now(model) == pytest.approx(step.fitness)
        return step.fitness

    study = make_study()
    study.optimize(hasty, n_trials=4)
    assert all(t.user_attrs["epochs"] == 2 for t in study.trials)
    assert all(t.value < 10 for t in study.trials)


def test_back_off_restores_the_optimizer_too() -> None:
    norms: list[float] = []

    def explosive(trial: optuna.Trial) -> float:
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), 1e6, momentum=0.9)
        with esgd.sgd_step(trial, model, evaluate, optimizer=optimizer) as step:
            for _ in step.epochs(3):
                norms.append(
                    sum(float(s["momentum_buffer"].norm()) for s in optimizer.state.values())
                )
                train_epoch(model, optimizer)
        return step.fitness

    make_study(back_off="step").optimize(explosive, n_trials=1)
    assert norms == [0.0, 0.0, 0.0]


def test_scoring_leaves_every_module_in_its_mode() -> None:
    def frozen_norm(trial: optuna.Trial) -> float:
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        model[1].eval()
        with esgd.sgd_step(trial, model, evaluate) as step:
            for _ in step.epochs(2):
                assert model.training
                assert not model[1].training
        return step.fitness

    make_study().optimize(frozen_norm, n_trials=2)


def test_an_evolution_step_that_fails_does_not_fail_the_trial(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = make_study()
    calls: list[Any] = []

    def once_broken(trial: optuna.Trial) -> float:
        def fragile(model: nn.Module) -> float:
            calls.append(model)
            if trial.number == 3 and len(calls) > n_before + 3:
                raise RuntimeError("out of cheese")
            return evaluate(model)

        n_before = len(calls)
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with esgd.sgd_step(trial, model, fragile) as step:
            for _ in step.epochs(2):
                train_epoch(model, optimizer)
        return step.fitness

    study.optimize(once_broken, n_trials=5)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 5
    assert "evolution step failed" in caplog.text
    assert study.trials[4].user_attrs["generation"] == 1
    assert verify(open_results(study)) == []


def test_a_thread_that_gives_up_does_not_wait_for_one_that_waits_for_it() -> None:
    study = make_study(2)
    study.optimize(objective, n_trials=1)  # one slot of generation 0 is left
    waiting = threading.Event()

    def give_up(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        if not waiting.is_set():  # the first of two threads holds the only slot
            waiting.set()
            time.sleep(0.5)
            raise optuna.TrialPruned
        return objective(trial)

    runner = threading.Thread(
        target=study.optimize, args=(give_up,), kwargs={"n_trials": 2, "n_jobs": 2}, daemon=True
    )
    runner.start()
    runner.join(timeout=60)
    assert not runner.is_alive()
    assert [t.state for t in study.trials].count(TrialState.COMPLETE) == 2


def test_a_model_that_cannot_be_copied_is_refused_in_the_first_trial() -> None:
    def locked(trial: optuna.Trial) -> float:
        model = build_model()
        model.lock = threading.Lock()  # type: ignore[assignment]
        with esgd.sgd_step(trial, model, evaluate) as step:
            pytest.fail("It had trained.")
        return step.fitness

    study = make_study()
    with pytest.raises(TaskError, match=r"deepcopy cannot copy it: TypeError: .*lock.*Leave out"):
        study.optimize(locked, n_trials=1)
    assert find_population(study, None) is None
