"""Small plans, snapshots and outcomes to test stores with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.individual import Claim, Individual, Plan, Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome, Snapshot

LEASE_SECONDS = 60.0


def example_configuration(**settings: Any) -> Configuration:
    """Four individuals in cohorts of two."""
    small = {"population_size": 4, "seed": 0, "n_offspring": 4, "n_elites": 2}
    return Settings(**{**small, **settings}).configure(seed=0, cohort_size=2, maximize=False)


def example_snapshot(seed: object, n_bytes: int = 1000) -> Snapshot:
    """Random bytes, the same for the same seed; its manifest describes them as one tensor."""
    rng = np.random.default_rng(list(str(seed).encode()))
    entry = {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}
    return Snapshot(json.dumps({"weights": entry}).encode(), rng.bytes(n_bytes))


def example_plan(
    generation: int,
    *,
    n_individuals: int = 4,
    cohort_size: int = 2,
    round_: int = 0,
    certificate: tuple[float, ...] = (),
) -> Plan:
    """Founders in generation 0, then elites of the same number; offspring in later rounds."""
    individuals = [_planned(Reference(generation, round_, n)) for n in range(n_individuals)]
    numbers = list(range(n_individuals))
    return Plan(
        generation=generation,
        round=round_,
        individuals=tuple(individuals),
        cohorts=tuple(
            tuple(numbers[at : at + cohort_size]) for at in range(0, n_individuals, cohort_size)
        ),
        certificate=certificate,
    )


def example_part(
    generation: int, cohort: int, *, round_: int = 0, certificate: tuple[float, ...] = ()
) -> Plan:
    """One cohort of a round of four individuals in cohorts of two."""
    whole = example_plan(generation, round_=round_, certificate=certificate)
    numbers = whole.cohorts[cohort]
    return replace(
        whole,
        individuals=tuple(whole.individuals[number] for number in numbers),
        cohorts=(numbers,),
        first_cohort=cohort,
    )


def _planned(reference: Reference) -> Individual:
    generation, round_, number = reference
    if round_:
        parents = (Reference(generation, 0, number), Reference(generation, 0, 0))
        return Individual(
            reference=reference, birth="recombination", parents=parents, mutation_scale=0.01
        )
    founder = Individual(
        reference=reference, birth="founder", species="sgd", hyperparameters={"lr": 0.1}
    )
    if generation == 0:
        return founder
    origin = Reference(generation - 1, 0, number)
    return replace(founder, birth="elite", origin=origin, parents=(origin,), birth_fitness=1.0)


def take(population: Population, key: SlotKey, *, lease_seconds: float = LEASE_SECONDS) -> Claim:
    """Claim a slot that must be claimable."""
    claim = population.claim(key, worker="somebody", lease_seconds=lease_seconds)
    assert claim is not None, f"{key} is not claimable"
    return claim


def outcome(number: int, fitness: float = 1.0, **values: Any) -> Outcome:
    """How an individual ended; without weights unless they are given."""
    return Outcome(number=number, fitness=fitness, **values)


def finish_slot(population: Population, key: SlotKey, fitness: float = 1.0) -> None:
    """Finish a slot, see ``ends_of``."""
    claim = take(population, key)
    assert population.finish(claim, ends_of(population, claim, fitness))


def ends_of(population: Population, claim: Claim, fitness: float = 1.0) -> list[Outcome]:
    """How a slot may end; who trained gets weights and an optimizer state that nobody else has."""
    return [
        outcome(
            one.number,
            fitness,
            weights=None if one.round else weights_of(population, one),
            optimizer_state=None if one.round else example_snapshot("state", 9),
        )
        for one in claim.slot.references
    ]


def finish_generation(
    population: Population,
    generation: int,
    *,
    fitness: Iterable[float] = (1.0, 2.0, 3.0, 4.0),
    n_bytes: int = 1000,
    states: bool = False,
) -> None:
    """Plan a generation and finish it, with weights that nobody else has."""
    plan = example_plan(generation)
    assert population.commit_plan(plan)
    ends = list(fitness)
    for cohort, numbers in enumerate(plan.cohorts):
        claim = take(population, SlotKey(generation, 0, cohort))
        ended = [
            outcome(
                number,
                ends[number],
                birth_fitness=None if generation else 10.0,
                weights=weights_of(population, Reference(generation, 0, number), n_bytes),
                optimizer_state=(
                    weights_of(population, Reference(generation, 9, number), n_bytes)
                    if states
                    else None
                ),
            )
            for number in numbers
        ]
        assert population.finish(claim, ended)


def weights_of(population: Population, reference: Reference, n_bytes: int = 1000) -> Snapshot:
    """What ``finish_generation`` stores for an individual."""
    return example_snapshot((population.uuid, *reference), n_bytes)
