"""Every lie is found."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.examples import (
    example_configuration,
    example_plan,
    finish_generation,
    weights_of,
)
from optuna_esgd.testing.runs import run

_CONFIGURATION = example_configuration(n_generations=4)


@pytest.fixture
def population() -> MemoryPopulation:
    """Four generations, all true."""
    made = MemoryPopulation(_CONFIGURATION.to_json())
    run(made, _CONFIGURATION)
    assert verify(made) == verify(made, _CONFIGURATION) == []
    return made


def _change(population: MemoryPopulation, reference: Reference, **values: object) -> Individual:
    one = population._individuals[reference]
    population._individuals[reference] = replace(one, **values)  # type: ignore[arg-type]
    return one


def test_empty_and_unfinished_populations_are_true() -> None:
    population = MemoryPopulation(_CONFIGURATION.to_json())
    assert verify(population) == []
    finish_generation(population, 0)
    population.commit_plan(example_plan(0, round_=1))
    assert verify(population) == []


@pytest.mark.parametrize(
    ("values", "lie"),
    [
        ({"fitness": 1e9}, "worse than its"),
        ({"fitness": math.nan}, "worse than its"),
        ({"birth_fitness": 99.0}, "was born with fitness 99.0, but its origin"),
        ({"parents": (Reference(8, 0, 0),)}, r"descends from 8\.0\.0, which does not exist"),
        ({"parents": (Reference(0, 0, 0),)}, "did not come before"),
        ({"parents": (Reference(2, 0, 0),)}, "did not come before"),
        ({"parents": ()}, "with 0 parents"),
        ({"birth": "founder"}, "born as founder"),
        ({"fitness": None}, "has no fitness"),
        ({"weights": "0" * 32}, "have digest"),
    ],
)
def test_changed_individual_is_found(
    population: MemoryPopulation, values: dict[str, object], lie: str
) -> None:
    who = Reference(2, 0, 1)
    population.pin(who)
    _change(population, who, **values)
    with pytest.raises(AssertionError, match=lie):
        assert verify(population) == []


@pytest.mark.parametrize("certificate", [(0.0, 0.0), (1.0,), ()])
def test_changed_certificate_is_found(
    population: MemoryPopulation, certificate: tuple[float, ...]
) -> None:
    plan = population._plans[(2, 0)]
    population._plans[(2, 0)] = replace(plan, certificate=certificate)
    lies = verify(population)
    assert any("certificate" in lie and "2" in lie for lie in lies)


def test_certificate_that_gets_worse_is_found(population: MemoryPopulation) -> None:
    """By the last bit."""
    plan = population._plans[(3, 0)]
    before = population.certificates()[2]
    worse = tuple(math.nextafter(mean, math.inf) for mean in before)
    population._plans[(3, 0)] = replace(plan, certificate=worse)
    assert any("got worse from generation 2" in lie for lie in verify(population))


def test_individuals_outside_their_slot_are_found(population: MemoryPopulation) -> None:
    slots = [slot for key, slot in population._slots.items() if key[:2] == (1, 0)]
    slots[0].numbers, slots[1].numbers = (0, 1, 9), (1, 3)
    lies = verify(population)
    for lie in (
        "Individual 1.0.1 is in two slots.",
        "Individual 1.0.2 is in no slot.",
        "which does not exist",
    ):
        assert any(lie in found for found in lies), lie


def test_fitness_in_an_open_slot_is_found(population: MemoryPopulation) -> None:
    next(iter(population._slots.values())).state = "free"
    assert any("has a fitness, but" in lie for lie in verify(population))


def test_damaged_and_missing_bytes_are_found(population: MemoryPopulation) -> None:
    one, other = population.individuals(generation=3)[:2]
    digest = population._snapshots[population._weights[one.reference]].links[0].chunk
    population._chunks[digest] = b"x" * 1000
    del population._weights[other.reference]
    lies = verify(population)
    assert any("is damaged" in lie and digest in lie for lie in lies)
    assert any("were collected" in lie and str(other.reference) in lie for lie in lies)


def test_exchanged_weights_are_found(population: MemoryPopulation) -> None:
    """Whole, but somebody else's."""
    one = population.individuals(generation=3)[0].reference
    other = MemoryPopulation({})
    population._keep(population._weights, one, weights_of(other, one))
    assert any("have digest" in lie for lie in verify(population))


_ASYNCHRONOUS = example_configuration(n_generations=4, asynchronous=True)


@pytest.fixture
def asynchronous() -> MemoryPopulation:
    """Four generations of each place, all true."""
    made = MemoryPopulation(_ASYNCHRONOUS.to_json())
    run(made, _ASYNCHRONOUS)
    assert verify(made) == verify(made, _ASYNCHRONOUS) == []
    return made


@pytest.mark.parametrize(
    ("values", "lie"),
    [
        ({"fitness": 1e9}, "worse than its"),
        ({"parents": (Reference(8, 0, 0),)}, "descends from 8.0.0, which does not exist"),
        ({"parents": (Reference(3, 0, 0),)}, "descends from 3.0.0, which did not come before"),
        ({"origin": Reference(1, 0, 0)}, "which is not of its place"),
        ({"origin": Reference(0, 0, 1)}, "which is not of its place"),
        ({"fitness": None}, "has no fitness"),
    ],
)
def test_changed_individual_of_a_place_is_found(
    asynchronous: MemoryPopulation, values: dict[str, object], lie: str
) -> None:
    _change(asynchronous, Reference(2, 0, 1), **values)
    lies = verify(asynchronous)
    assert any(lie in found for found in lies), lies


def test_place_that_gives_its_elite_away_is_found(asynchronous: MemoryPopulation) -> None:
    """Nobody is worse than born, but the best was not gone on with."""
    last = {one.reference.number: one for one in asynchronous.individuals(generation=3)[:4]}
    before = {one.reference.number: one for one in asynchronous.individuals(generation=2)[:4]}
    best = min(last.values(), key=lambda one: one.fitness_or_inf)
    number = best.reference.number
    worst = max(one.fitness_or_inf for one in (*last.values(), *before.values())) + 1
    _change(asynchronous, best.reference, birth_fitness=worst, fitness=worst)
    lies = verify(asynchronous)
    key = f"cohort={number // 2}"
    assert any("The mean of the 1 best got worse" in lie and key in lie for lie in lies), lies


def test_certificate_better_than_the_holders_is_found(asynchronous: MemoryPopulation) -> None:
    plan = asynchronous._plans[(2, 0)]
    asynchronous._plans[(2, 0)] = replace(plan, certificate=(-1e9, -1e9))
    assert any("The certificate of generation 2 says" in lie for lie in verify(asynchronous))
