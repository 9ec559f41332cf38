"""A whole run that costs next to nothing but its statements: one weight, four individuals."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.ports import Population
from optuna_esgd.species import SGD
from optuna_esgd.store import write_behind
from optuna_esgd.store.opening import find_population
from optuna_esgd.store.verification import verify, verify_trials
from optuna_esgd.trainer.preemption import Preemption
from optuna_esgd.trainer.task import Epoch
from optuna_esgd.worker.work import work

POPULATION, GENERATIONS = 4, 2
STUDY = "faults"
SPECIES = (SGD(lr=(0.01, 0.1), momentum=0.0, weight_decay=0.0),)


class Parabola(esgd.Task):
    """Brings one weight to 0.

    Args:
        in_between: Called in every epoch, for what is to happen in the middle of the work.
    """

    def __init__(self, in_between: Callable[[Epoch], object] = lambda epoch: None) -> None:
        self._in_between = in_between

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch
    ) -> None:
        self._in_between(epoch)
        weight = next(model.parameters())
        weight.grad = 2 * weight.detach()  # by hand: autograd does not outlive a fork
        optimizer.step()

    def fitness(self, model: nn.Module) -> float:
        return float(next(model.parameters()).square().sum())


def open_study(
    url: Any, *, lease_seconds: float = 60.0, asynchronous: bool = False
) -> optuna.Study:
    """The study of the run, made if need be."""
    sampler = esgd.ESGDSampler(
        POPULATION,
        seed=7,
        n_epochs=1,
        n_offspring=4,
        n_generations=GENERATIONS,
        lease_seconds=lease_seconds,
        asynchronous=asynchronous,
    )
    storage = esgd.create_storage(url) if isinstance(url, str) else url
    return optuna.create_study(
        storage=storage, study_name=STUDY, sampler=sampler, load_if_exists=True
    )


def run(
    url: Any,
    *,
    task: esgd.Task | None = None,
    lease_seconds: float = 60.0,
    n_trials: int | None = None,
    store: str | None = None,
) -> optuna.Study:
    """Work until all generations are done."""
    prepare()
    study = open_study(url, lease_seconds=lease_seconds)
    trainer = esgd.ESGDTrainer(
        Parabola() if task is None else task,
        species=SPECIES,
        cohort_size=2,
        device="cpu",
        store=store,
    )
    study.optimize(trainer, n_trials=n_trials)
    return study


def run_worker(url: Any, *, writes_behind: bool = False, asynchronous: bool = False) -> None:
    """As a worker does, who claims first and makes trials later.

    Args:
        url: Of the database.
        writes_behind: Whether slots are written while work goes on, however short it is.
        asynchronous: Whether every cohort goes on by itself.
    """
    prepare()
    write_behind._SHORT_SECONDS = 0.0 if writes_behind else math.inf
    study = open_study(url, asynchronous=asynchronous)
    trainer = esgd.ESGDTrainer(Parabola(), species=SPECIES, cohort_size=2, device="cpu")
    assert work(trainer, study, checkpoint_seconds=math.inf, preemption=Preemption())


def prepare() -> None:
    """What a process of the tests does first."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna_esgd").addHandler(logging.NullHandler())
    torch.set_num_threads(1)


def result(study: optuna.Study, store: str | None = None) -> list[tuple[object, ...]]:
    """All that must not depend on who did the work; checked on the way."""
    return bits(check(study, store))


def check(study: optuna.Study, store: str | None = None) -> Population:
    """What holds however the work was done."""
    population = find_population(study, store)
    assert population is not None
    assert verify(population) == []
    assert verify_trials(study, population) == []
    return population


def bits(population: Population) -> list[tuple[object, ...]]:
    """What everybody is: the same however often the work was disturbed."""
    everyone = population.individuals()
    for generation in range(GENERATIONS):
        members = [one for one in everyone if one.reference[:2] == (generation, 0)]
        assert len(members) == POPULATION
        assert all(one.fitness is not None for one in members)
    return [
        (
            one.reference,
            one.birth,
            one.parents,
            one.species,
            tuple(one.hyperparameters.items()),
            one.weights,
            one.birth_fitness,
            one.fitness,
            one.n_back_offs,
        )
        for one in everyone
    ]
