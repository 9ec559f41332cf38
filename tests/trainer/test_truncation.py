"""Population-based training as settings: truncation selection, and nobody backs off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Individual
from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.species import SGD
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.verification import verify, verify_trials
from optuna_esgd.trainer import workshop
from optuna_esgd.trainer.results import load_weights, read_tensors
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task

TOO_FAST = SGD(lr=(1.0, 3.0), momentum=0.9)  # some steps make things worse


def train(
    task: esgd.Task, species: SGD = TOO_FAST, **settings: Any
) -> tuple[optuna.Study, list[Individual]]:
    study = make_study(5, n_generations=3, selection="truncation", back_off="none", **settings)
    study.optimize(esgd.ESGDTrainer(task, species=[species]))
    return study, list(open_results(study, None).individuals())


@pytest.mark.parametrize("name", ["mlp", "branching"])
def test_a_step_ends_where_training_ends_and_is_scored_once(name: str) -> None:
    task = make_task(name)
    study, everyone = train(task)
    assert any(one.fitness_or_inf > (one.birth_fitness or 0) for one in everyone)
    assert all(one.n_back_offs == 0 and one.n_epochs == 2 for one in everyone)
    assert {one.reference.round for one in everyone} == {0}
    for one in everyone:
        assert one.n_evaluations == (2 if one.reference.generation == 0 else 1)
        if one.is_stored:
            model = load_weights(
                task.build_model(), read_tensors(open_results(study, None), one.reference)
            )
            with torch.no_grad():
                fitness = clean_fitness(task.fitness(model.eval()))
            assert fitness == pytest.approx(one.fitness, rel=1e-4)


@pytest.mark.parametrize("is_stored", [False, True])
def test_what_is_not_guaranteed_is_no_lie(is_stored: bool, tmp_path: Path) -> None:
    storage = esgd.create_storage(f"sqlite:///{tmp_path}/esgd.db") if is_stored else None
    study, everyone = train(make_task(), storage=storage)
    population = open_results(study, None)
    assert any(one.fitness_or_inf > (one.birth_fitness or 0) for one in everyone)
    assert verify(population) == []
    assert verify_trials(study, population) == []


def test_the_best_visited_generation_is_the_result() -> None:
    task = make_task()
    study, everyone = train(task)
    model = esgd.load_best(study, task.build_model())
    with torch.no_grad():
        fitness = task.fitness(model.eval())
    assert fitness == pytest.approx(min(one.fitness_or_inf for one in everyone), rel=1e-4)


def test_batched_and_row_by_row_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    species = SGD(lr=(1e-2, 1e-1), momentum=0.9)
    _, batched = train(make_task(), species)
    monkeypatch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))
    _, rows = train(make_task(), species)
    for one, other in zip(batched, rows, strict=True):
        assert (one.parents, one.hyperparameters) == (other.parents, other.hyperparameters)
        assert one.fitness == pytest.approx(other.fitness, rel=1e-3)


def test_an_objective_of_ones_own_keeps_the_values_of_those_that_go_on() -> None:
    inputs, targets = examples("mlp", 0)

    def evaluate(model: nn.Module) -> float:
        return nn.functional.cross_entropy(model(inputs), targets).item()

    def objective(trial: optuna.Trial) -> float:
        model = MODELS["mlp"][0]()
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        with esgd.sgd_step(trial, model, evaluate, optimizer=optimizer) as step:
            for _ in step.epochs():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        return step.fitness

    study = make_study(
        4, selection="truncation", back_off="none", n_generations=3, resample_probability=0.0
    )
    study.optimize(objective, n_trials=12)
    population = open_results(study, None)
    everyone = {one.reference: one for one in population.individuals()}
    later = [one for one in everyone.values() if one.reference.generation > 0]
    assert len(later) == 8
    copies = [one for one in later if one.birth == "survivor"]
    assert len(copies) == 2  # one of four in each generation
    for one in later:
        kept = one.hyperparameters == everyone[one.parents[0]].hyperparameters
        assert kept == (one not in copies)
    assert all(one.n_evaluations == 1 for one in later)
    assert verify(population) == []
