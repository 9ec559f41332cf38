"""Founders try several species, and end where the best of them took them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.auditions import candidates
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.store.opening import find_population, open_results
from optuna_esgd.store.verification import verify
from optuna_esgd.trainer.preemption import NoCheckpoints, Preempted
from optuna_esgd.trainer.spaces import join_spaces
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_checkpoints import PreemptionAfter, run

SPECIES = ["SGD", "Adam", "RMSprop"]


def make_trainer(model: str = "mlp", **arguments: Any) -> esgd.ESGDTrainer:
    return esgd.ESGDTrainer(make_task(model), species=SPECIES, **arguments)


def train(study: optuna.Study, **arguments: Any) -> Population:
    loop = make_trainer(**arguments).open(study)
    run(loop)
    return loop.population


def founders(population: Population) -> list[Individual]:
    everyone = population.individuals(generation=0)
    return [one for one in everyone if one.reference.round == 0]


def ends(population: Population) -> list[tuple[Any, ...]]:
    names = (
        *("reference", "species", "hyperparameters", "weights", "fitness", "birth_fitness"),
        *("n_back_offs", "n_epochs", "n_gradients", "n_evaluations"),
    )
    trained = [one for one in population.individuals() if one.reference.round == 0]
    return [tuple(getattr(one, name) for name in names) for one in trained]


@pytest.mark.parametrize(
    ("n_auditions", "back_off"), [(4, "best"), (2, "best"), (4, "step"), (2, "none")]
)
def test_each_founder_ends_where_its_best_audition_ended(n_auditions: int, back_off: Any) -> None:
    settings: dict[str, Any] = {"n_epochs": 4, "back_off": back_off, "seed": 2}
    study = make_study(5, n_auditions=n_auditions, n_generations=1, **settings)
    found = train(study)
    trainer = make_trainer()
    configuration = trainer.check_configuration(found.configuration)
    assert configuration.n_auditions == n_auditions
    planned = [
        replace(one, birth_fitness=None, fitness=None)
        for one in candidates(
            founders(found), configuration, join_spaces(trainer.species, trainer.task), audition=0
        )
    ]
    apart = replace(configuration, n_auditions=1, n_epochs=4 // n_auditions)
    workshop = trainer.workshop(found, apart, trainer.build_layout())
    tried: dict[int, list[tuple[Individual, Outcome]]] = {}
    for audition in range(n_auditions):
        spaces = join_spaces(trainer.species, trainer.task)
        trying = candidates(planned, configuration, spaces, audition=audition)
        by_number = {one.reference.number: one for one in trying}
        for outcome in workshop.train(trying, NoCheckpoints()):
            tried.setdefault(outcome.number, []).append((by_number[outcome.number], outcome))
    for one in founders(found):
        pairs = tried[one.reference.number]
        candidate, outcome = min(pairs, key=lambda pair: pair[1].fitness)
        assert (one.species, one.hyperparameters) == (candidate.species, candidate.hyperparameters)
        assert (one.fitness, one.birth_fitness) == (outcome.fitness, outcome.birth_fitness)
        assert (one.n_epochs, one.n_back_offs) == (4 // n_auditions, outcome.n_back_offs)
        weights = found.read_weights(one.reference)
        assert outcome.weights is not None
        assert bytes(weights.payload) == bytes(outcome.weights.payload)
        assert one.n_gradients == sum(each.n_gradients for _, each in pairs)
        # At birth everyone is scored once, not once in each audition.
        n_evaluations = sum(each.n_evaluations for _, each in pairs)
        assert one.n_evaluations == n_evaluations - (n_auditions - 1)
    changed = [
        one.hyperparameters != before.hyperparameters
        for one, before in zip(founders(found), planned, strict=True)
    ]
    assert set(changed) == {True, False}


@pytest.mark.parametrize("n_auditions", [2, 4])
@pytest.mark.parametrize("stops", [[1], [2, 1], [1, 1, 1, 1], [3]])
def test_whoever_takes_over_ends_at_the_same_bits(n_auditions: int, stops: list[int]) -> None:
    def trained(stops: list[int]) -> list[tuple[Any, ...]]:
        study = make_study(4, n_generations=2, n_epochs=4, n_auditions=n_auditions)
        for n_epochs in stops:
            loop = make_trainer().open(study)
            loop.preemption = PreemptionAfter(n_epochs)
            with contextlib.suppress(Preempted):
                run(loop)
        return ends(train(study))

    assert trained(stops) == trained([])


@pytest.mark.parametrize("model", ["mlp", "batch-norm", "dropout", "lstm"])
def test_nothing_depends_on_who_trains_together(model: str) -> None:
    task = {"model": model, "backend": "rows"}
    one = ends(train(make_study(4, n_epochs=4, n_generations=2), cohort_size=4, **task))
    other = ends(train(make_study(4, n_epochs=4, n_generations=2), cohort_size=1, **task))
    assert one == other


def test_trials_show_what_was_kept(tmp_path: Path) -> None:
    study = make_study(4, n_epochs=4, storage=f"sqlite:///{tmp_path / 'esgd.db'}")
    study.optimize(make_trainer(), n_trials=8)
    population = open_results(study, None)
    assert verify(population) == []
    by_trial = {one.trial_number: one for one in population.individuals()}
    for trial in study.trials:
        one = by_trial[trial.number]
        assert trial.params == {"species": one.species, **one.hyperparameters}


def test_the_genealogy_can_be_trained_again_and_written_down(tmp_path: Path) -> None:
    study = make_study(4, n_epochs=4, n_generations=3)
    study.optimize(make_trainer())
    replayed = esgd.replay(study, make_trainer())
    assert replayed.digest == replayed.individual.weights
    esgd.export_schedule(study, make_trainer(), tmp_path / "schedule.py")
    assert "n_epochs=1" in (tmp_path / "schedule.py").read_text()


class OneStep(esgd.Task):
    """An epoch is one gradient step."""

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> int:
        optimizer.zero_grad()
        (model(torch.ones(1, 1)) - 1).square().sum().backward()
        optimizer.step()
        return 1

    def fitness(self, model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(torch.ones(1, 1)) - 1).square().sum())


def test_tasks_with_loops_of_their_own_audition_too() -> None:
    study = make_study(3, n_epochs=4, n_generations=1)
    trainer = esgd.ESGDTrainer(OneStep(), species=SPECIES)
    study.optimize(trainer)
    for one in founders(open_results(study, None)):
        assert (one.n_epochs, one.n_gradients) == (1, 4)


def test_cohorts_that_depend_on_each_other_do_not_audition() -> None:
    arguments: dict[str, Any] = {"diversity": "coupling", "cohort_size": 3}
    study = make_study(3, n_epochs=4, n_generations=1)
    study.optimize(make_trainer(**arguments))
    assert {one.n_epochs for one in founders(open_results(study, None))} == {4}
    study = make_study(3, n_epochs=4, n_generations=1, n_auditions=4)
    with pytest.raises(ConfigurationError, match=r"with diversity=, it must be 1 or None, got 4"):
        study.optimize(make_trainer(**arguments))


def test_an_objective_of_ones_own_cannot_audition() -> None:
    def objective(trial: optuna.Trial) -> float:
        with esgd.sgd_step(trial, nn.Linear(1, 1), lambda _: 1.0):
            return 1.0

    study = make_study(3, n_epochs=4, n_auditions=2)
    with pytest.raises(ConfigurationError, match=r"n_auditions is for an ESGDTrainer.* got 2"):
        study.optimize(objective, n_trials=1)
    assert find_population(study) is None


def test_one_species_is_not_auditioned() -> None:
    study = make_study(3, n_epochs=4, n_generations=1)
    study.optimize(esgd.ESGDTrainer(make_task(), species=["SGD"]))
    assert {one.n_epochs for one in founders(open_results(study, None))} == {4}
    study = make_study(3, n_epochs=4, n_generations=1, n_auditions=2)
    with pytest.raises(ConfigurationError, match="n_auditions is for several species"):
        study.optimize(esgd.ESGDTrainer(make_task(), species=["SGD"]))
