"""Whole runs of Algorithm 1 on a toy task: the fastest way to make a population with a history."""

from __future__ import annotations

import math

from optuna_esgd.engine.actions import Commit, Evaluate, Train, Wait
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import Claim, Individual, Reference
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.testing.examples import example_snapshot


def run(
    population: Population,
    configuration: Configuration,
    *,
    n_bytes: int = 1000,
    worker: str = "worker",
) -> None:
    """Work until all generations are done; several workers may do so at once.

    Fitness is a random walk that backs off; weights are random bytes that stay while nothing
    improves. Whatever a real run would read is read, and garbage is collected at every plan of
    births.
    """
    while True:
        match decide(population.facts(), configuration, explore_nothing):
            case Commit(plan):
                if population.commit_plan(plan) and plan.round == 0:
                    population.collect_garbage()
            case Train(slots) | Evaluate(slots):
                claim = population.claim(slots[0].key, worker=worker, lease_seconds=60)
                if claim is not None:
                    ended = outcomes_of(population, configuration, claim, n_bytes=n_bytes)
                    population.finish(claim, ended)
            case Wait():
                continue
            case _:
                return


def outcomes_of(
    population: Population, configuration: Configuration, claim: Claim, *, n_bytes: int = 1000
) -> list[Outcome]:
    """How the work on a claim ends, whoever does it."""
    generation, round_, _ = claim.slot.key
    everyone = {one.reference: one for one in population.individuals(generation=generation)}
    cohort = [everyone[Reference(generation, round_, n)] for n in claim.slot.numbers]
    for one in cohort:
        read_birth(population, one)
    return [outcome_of(population, configuration, one, n_bytes) for one in cohort]


def read_birth(population: Population, one: Individual) -> None:
    """Read what an individual starts from: it must not have been collected."""
    trained = [parent for parent in one.parents if parent.round == 0]
    for parent in trained:
        population.read_weights(parent)
    if one.reference.round == 0 and trained:
        assert population.read_optimizer_state(trained[0]) is not None, one


def outcome_of(
    population: Population, configuration: Configuration, one: Individual, n_bytes: int
) -> Outcome:
    """How an individual ends: the same in every population of this name."""
    rng = stream(configuration.seed, *one.reference, "toy")
    drawn = float(rng.normal(loc=-0.1 * one.reference.generation))
    if rng.random() < 0.1:
        drawn = math.nan
    number = one.reference.number
    if one.reference.round:
        return Outcome(number=number, fitness=drawn)
    born = float(rng.normal()) if one.birth_fitness is None else one.birth_fitness
    improves = drawn < born
    origin = one.reference if improves or one.origin is None else one.origin
    return Outcome(
        number=number,
        fitness=drawn if improves else born,
        birth_fitness=born if one.birth_fitness is None else None,
        weights=example_snapshot((population.uuid, *origin), n_bytes),
        optimizer_state=example_snapshot((population.uuid, "state", *one.reference), 100),
    )
