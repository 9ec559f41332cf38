"""The third door: ``with esgd.sgd_step(...)`` in an objective people already have."""

from __future__ import annotations

import os
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.errors import StudyError, TaskError
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.verification import verify
from tests.trainer.models import examples
from tests.trainer.studies import make_study

TRAIN, VALIDATION = examples("mlp", 0), examples("mlp", 1)


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def evaluate(model: nn.Module) -> float:
    assert not model.training
    assert not torch.is_grad_enabled()
    return nn.functional.cross_entropy(model(VALIDATION[0]), VALIDATION[1]).item()


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for inputs, targets in zip(TRAIN[0].split(8), TRAIN[1].split(8), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def objective(trial: optuna.Trial, *, epochs: bool = True, **arguments: Any) -> float:
    kind = trial.suggest_categorical("optimizer", ["SGD", "Adam"])
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    torch.manual_seed(trial.number)
    model = build_model()
    if kind == "SGD":
        momentum = trial.suggest_float("momentum", 0.0, 0.95)
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr, momentum)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr)
    with esgd.sgd_step(trial, model, evaluate, optimizer=optimizer, **arguments) as step:
        if epochs:
            for _ in step.epochs():
                train_epoch(model, optimizer)
        else:
            train_epoch(model, optimizer)
    assert evaluate_now(model) == pytest.approx(step.fitness, rel=1e-5)
    assert optimizer.param_groups[0]["lr"] == lr
    return step.fitness


def evaluate_now(model: nn.Module) -> float:
    with torch.no_grad():
        return evaluate(model.eval())


@pytest.mark.parametrize("epochs", [True, False])
@pytest.mark.parametrize("preset", ["coevolve", "paper"])
def test_three_lines_make_an_objective_a_population(preset: str, epochs: bool) -> None:
    study = make_study(preset=preset)
    study.optimize(lambda trial: objective(trial, epochs=epochs), n_trials=12)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 12
    assert [t.user_attrs["generation"] for t in study.trials] == [0] * 4 + [1] * 4 + [2] * 4
    population = open_results(study)
    assert verify(population) == []
    for trial in study.trials:
        individual = population.individual_of_trial(trial.number)
        assert individual is not None
        assert dict(individual.hyperparameters) == trial.params
        assert individual.species == trial.params["optimizer"]
    values = [[t.value for t in study.trials[start : start + 4]] for start in (0, 4, 8)]
    assert [min(v) for v in values] == sorted((min(v) for v in values), reverse=True)
    model = esgd.load_best(study, build_model())
    assert evaluate_now(model) <= study.best_value * (1 + 1e-6)


@pytest.mark.parametrize("keep_probability", [0.0, 1.0])
def test_hyperparameters_are_inherited_with_a_change(keep_probability: float) -> None:
    study = make_study(resample_probability=0.0, keep_probability=keep_probability)
    study.optimize(objective, n_trials=8)
    population = open_results(study)
    for trial in study.trials[4:]:
        child = population.individual_of_trial(trial.number)
        assert child is not None
        parent = child
        everyone = {one.reference: one for one in population.individuals()}
        while parent.first_parent is not None and (parent is child or parent.reference.round > 0):
            parent = everyone[parent.first_parent]
        assert trial.params["optimizer"] == parent.hyperparameters["optimizer"]
        if keep_probability:
            assert trial.params == parent.hyperparameters
            continue
        ratio = trial.params["lr"] / parent.hyperparameters["lr"]
        assert any(ratio == pytest.approx(r) for r in (0.8, 1.25)) or trial.params["lr"] in (
            pytest.approx(1e-3, rel=0.3),
            pytest.approx(1e-1, rel=0.3),
        )


def test_the_same_run_twice_is_the_same() -> None:
    runs = []
    for _ in range(2):
        study = make_study()
        study.optimize(objective, n_trials=12)
        runs.append([one.weights for one in open_results(study).individuals()])
    assert runs[0] == runs[1]


def test_slots_name_who_works_not_the_trial() -> None:
    study = make_study()
    study.optimize(objective, n_trials=4)
    everyone = open_results(study).individuals(generation=0)
    assert len({one.worker for one in everyone}) == 1
    assert str(os.getpid()) in everyone[0].worker


def test_an_exception_gives_the_slot_back() -> None:
    study = make_study()
    calls: list[int] = []

    def fragile(trial: optuna.Trial) -> float:
        calls.append(trial.number)
        if len(calls) == 2:
            trial.suggest_float("lr", 1e-3, 1e-1, log=True)
            model = build_model()
            with esgd.sgd_step(trial, model, evaluate):
                raise RuntimeError("out of cheese")
        return objective(trial)

    study.optimize(fragile, n_trials=9, catch=(RuntimeError,))
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 1
    generations = [t.user_attrs["generation"] for t in study.trials if t.value is not None]
    assert generations == [0] * 4 + [1] * 4
    assert verify(open_results(study)) == []


def test_a_trial_that_never_begins_its_step_gives_its_slot_back() -> None:
    study = make_study()
    study.optimize(objective, n_trials=2)

    def absent_minded(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        raise RuntimeError("forgot what to do")

    study.optimize(absent_minded, n_trials=3, catch=(RuntimeError,))
    study.optimize(objective, n_trials=2)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert [t.user_attrs["generation"] for t in complete] == [0] * 4


def test_wrong_use_is_refused() -> None:
    with pytest.raises(StudyError, match="ESGDSampler"):
        optuna.create_study().optimize(objective, n_trials=1)
    with pytest.raises(TaskError, match="Fitness must be a float"):
        make_study().optimize(
            lambda trial: esgd.sgd_step(trial, build_model(), lambda _: "good").__enter__() and 0,
            n_trials=1,
        )


def test_generations_end() -> None:
    study = make_study(n_generations=2)
    study.optimize(objective, n_trials=50)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 8


def test_maximise() -> None:
    def accuracy(model: nn.Module) -> float:
        return (model(VALIDATION[0]).argmax(-1) == VALIDATION[1]).float().mean().item()

    def plain(trial: optuna.Trial) -> float:
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), trial.suggest_float("lr", 0.01, 1))
        with esgd.sgd_step(trial, model, accuracy) as step:
            for _ in step.epochs(3):
                train_epoch(model, optimizer)
        return step.fitness

    study = make_study(direction="maximize")
    study.optimize(plain, n_trials=12)
    best = [max(t.value for t in study.trials[start : start + 4]) for start in (0, 4, 8)]
    assert best == sorted(best)


@pytest.mark.parametrize("explore", ["resample", "tpe", "random", "nsga2"])
def test_an_optuna_sampler_proposes_what_the_objective_suggests(explore: str) -> None:
    samplers = {
        "tpe": optuna.samplers.TPESampler(n_startup_trials=3),
        "random": optuna.samplers.RandomSampler(),
        "nsga2": optuna.samplers.NSGAIISampler(population_size=4),
        "resample": "resample",
    }
    runs = []
    for _ in range(2):
        study = make_study(explore=samplers[explore])
        study.optimize(objective, n_trials=12)
        assert verify(open_results(study)) == []
        runs.append([trial.params for trial in study.trials])
    assert runs[0] == runs[1]


def test_proposals_follow_the_sampler() -> None:
    class Always(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            assert name in ("optimizer", "lr", "momentum")
            if name == "lr":
                return 0.0123
            return super().sample_independent(study, trial, name, distribution)

    study = make_study(explore=Always())
    study.optimize(objective, n_trials=8)
    assert [t.params["lr"] == 0.0123 for t in study.trials] == [False] * 4 + [True] * 4
