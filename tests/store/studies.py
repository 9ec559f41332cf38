"""Optuna studies for tests of opening, pruning and the like."""

from __future__ import annotations

from typing import Any

import optuna

from optuna_esgd.engine.configuration import Settings
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.planning import plan_founders
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.opening import open_population
from optuna_esgd.testing.examples import outcome, take, weights_of

SMALL = Settings(population_size=4, n_elites=2, n_generations=3)


def open_small(study: optuna.Study, **options: Any) -> Population:
    """The study's population, with small settings."""
    population, _ = open_population(study, SMALL, cohort_size=2, **options)
    return population


def start(population: Population) -> None:
    """Plan generation 0 and train its first cohort."""
    configuration = SMALL.configure(seed=0, cohort_size=2, maximize=False)
    assert population.commit_plan(plan_founders(configuration, explore_nothing))
    slot = population.slots()[0]
    claim = take(population, slot.key)
    reference = population.individuals()[0].reference
    ended = [
        outcome(number, weights=weights_of(population, reference._replace(number=number)))
        for number in slot.numbers
    ]
    assert population.finish(claim, ended)
