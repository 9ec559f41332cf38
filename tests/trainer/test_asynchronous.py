"""Asynchronous runs from the outside: every door, several processes, dead workers."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import ConfigurationError, StudyError, WeightsNotFoundError
from optuna_esgd.store.verification import verify, verify_trials
from optuna_esgd.trainer.results import last_population, open_results
from tests.databases import MakeDatabase
from tests.trainer.asynchronous_worker import (
    GENERATIONS,
    POPULATION,
    VALIDATION,
    Uneven,
    make_sampler,
)
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_processes import ROOT
from tests.trainer.test_sgd_step import objective


def start_worker(url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.trainer.asynchronous_worker", url]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def finish(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors.decode()


def trained(population: Population) -> list[Individual]:
    return [one for one in population.individuals() if one.reference.round == 0]


def check(study: optuna.Study) -> Population:
    """Everything holds, and the best weights are what they are said to be."""
    population = open_results(study)
    assert verify(population) == []
    assert verify_trials(study, population) == []
    best = population.best()
    assert best is not None
    assert best.fitness == min(one.fitness_or_inf for one in population.individuals())
    model = esgd.load_best(study, Uneven().build_model())
    assert Uneven().fitness(model) == pytest.approx(best.fitness, rel=1e-4)
    return population


def check_complete(url: str) -> None:
    study = optuna.load_study(study_name="uneven", storage=esgd.create_storage(url))
    population = check(study)
    assert all(slot.state == "finished" for slot in population.slots())
    assert len(trained(population)) == POPULATION * GENERATIONS


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_of_uneven_work(kind: str, n_workers: int, make_database: MakeDatabase) -> None:
    url = make_database(kind)
    finish([start_worker(url) for _ in range(n_workers)])
    check_complete(url)
    study = optuna.load_study(study_name="uneven", storage=esgd.create_storage(url))
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == POPULATION * GENERATIONS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_workers_are_replaced(kind: str, make_database: MakeDatabase) -> None:
    """Each victim dies once more slots are finished, with a claim on another."""
    url = make_database(kind)
    optuna.create_study(
        storage=esgd.create_storage(url), study_name="uneven", sampler=make_sampler()
    )
    n_finished = 0
    for _ in range(2):
        victim = start_worker(url)
        n_finished = _wait_until_busy(url, n_finished, victim)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    finish([start_worker(url) for _ in range(2)])
    check_complete(url)


def _wait_until_busy(url: str, n_before: int, worker: subprocess.Popen[bytes]) -> int:
    study = optuna.load_study(study_name="uneven", storage=esgd.create_storage(url))
    while True:
        assert worker.poll() is None, "the worker ended by itself"
        try:
            states = [slot.state for slot in open_results(study).slots()]
        except StudyError:
            states = []
        n_finished = states.count("finished")
        if n_finished >= n_before + 3 and "claimed" in states:
            return n_finished
        time.sleep(0.01)


def _whole() -> optuna.Study:
    study = make_study(4, n_generations=3, asynchronous=True)
    study.optimize(esgd.ESGDTrainer(make_task()))
    return study


def test_results_are_read_as_ever() -> None:
    study, task = _whole(), make_task()
    population = check(study)
    holders = last_population(population)
    assert {one.reference.generation for one in holders} == {2}
    assert sorted(one.reference.number for one in holders) == [0, 1, 2, 3]
    assert [one.fitness for one in holders] == sorted(one.fitness for one in holders)
    assert esgd.greedy_soup(study, task).n_members >= 1
    assert esgd.ensemble(study, task).n_members == 4
    certificates = [means for _, means in sorted(esgd.certificate(study).items())]
    assert certificates
    for before, after in itertools.pairwise(certificates):
        assert all(now <= was for was, now in zip(before, after, strict=True))
    assert len(esgd.ancestry(study)) >= 1


def test_without_a_finished_founder_there_is_no_population_yet() -> None:
    study = make_study(4, n_generations=3, asynchronous=True)
    trainer = esgd.ESGDTrainer(make_task())
    loop = trainer.open(study)
    loop.act(loop.decide())
    with pytest.raises(WeightsNotFoundError, match="No individual has finished"):
        last_population(loop.population)


def test_trials_train_as_many_individuals_as_they_are() -> None:
    study = make_study(4, asynchronous=True)
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=10)
    ended = [one for one in trained(open_results(study)) if one.fitness is not None]
    assert len(ended) == 10
    assert sorted(one.trial_number for one in ended if one.trial_number is not None) == list(
        range(10)
    )


@pytest.mark.parametrize("cohort_size", [1, 2, 3])
def test_cohorts_of_any_size(cohort_size: int) -> None:
    study = make_study(4, n_generations=3, asynchronous=True)
    study.optimize(esgd.ESGDTrainer(make_task(), cohort_size=cohort_size))
    population = check(study)
    assert len(trained(population)) == 12


def test_a_study_is_one_or_the_other_for_good() -> None:
    study = _whole()
    study.sampler = esgd.ESGDSampler(4, seed=1, n_epochs=2)
    with pytest.raises(ConfigurationError, match="asynchronous is True in the study and False"):
        study.optimize(esgd.ESGDTrainer(make_task()), n_trials=1)


def test_samplers_propose_for_each_place() -> None:
    explore = optuna.samplers.TPESampler(n_startup_trials=2)
    study = make_study(4, n_generations=3, asynchronous=True, explore=explore)
    study.optimize(esgd.ESGDTrainer(make_task(), species=["SGD"]))
    founders = trained(check(study))[:4]
    assert len({one.hyperparameters["lr"] for one in founders}) == 4


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_steps_in_an_objective(n_jobs: int) -> None:
    study = make_study(4, asynchronous=True)
    study.optimize(objective, n_trials=12, n_jobs=n_jobs)
    population = open_results(study)
    assert verify(population) == []
    ended = [one for one in trained(population) if one.fitness is not None]
    assert len(ended) == 12
    inherits = [one for one in ended if one.birth != "founder"]
    assert inherits
    assert all(one.hyperparameters["lr"] > 0 for one in ended)


def test_steps_of_places_that_are_far_apart() -> None:
    """An individual inherits from a parent many generations older than itself, or younger."""
    study = make_study(4, asynchronous=True)
    study.optimize(objective, n_trials=4)
    population = open_results(study)
    slow = next(slot for slot in population.facts().slots if slot.is_claimable)
    claim = population.claim(slow.key, worker="slow", lease_seconds=60)
    assert claim is not None
    study.optimize(objective, n_trials=9)
    assert population.release(claim)
    study.optimize(objective, n_trials=2)
    assert verify(population) == []
    apart = [
        one.reference.generation - parent.generation
        for one in trained(population)
        for parent in one.parents
    ]
    assert max(apart) > 1
    assert slow.key.cohort in {
        slot.key.cohort for slot in population.slots(generation=1) if slot.state == "finished"
    }


def test_an_objective_may_be_scored_by_hand(make_database: MakeDatabase) -> None:
    """The weights a step ends with are those that are stored."""
    study = make_study(4, storage=make_database("sqlite"), asynchronous=True)
    study.optimize(objective, n_trials=8)
    model = esgd.load_best(study, Uneven().build_model()).eval()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(VALIDATION[0]), VALIDATION[1]).item()
    assert loss <= study.best_value * (1 + 1e-5)
