"""Algorithm 1 without its barrier, in every order of events: the guarantee, exactly."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.asynchronous import choose_birth
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.explore import ExploreSpaces, explore_nothing
from optuna_esgd.engine.individual import Facts, Individual, Reference, SlotKey
from optuna_esgd.engine.places import brood_of, current_holders, places_of
from tests.engine.configurations import configuration, configurations
from tests.engine.fakes import SPACES, FakePopulation, Landscape, Run
from tests.evolution.statistics import assert_frequencies

asynchronous = configurations(asynchronous=True)
landscapes = st.builds(
    Landscape, seed=st.integers(0, 2**32), oddity=st.sampled_from([0.0, 0.2, 0.6, 1.0])
)
orders = st.randoms(use_true_random=False)


def simulate(
    configuration: Configuration,
    landscape: Landscape,
    order: random.Random | None = None,
    **options: object,
) -> Run:
    run = Run(
        configuration,
        ExploreSpaces(configuration, SPACES),
        landscape,
        order=order,
        **options,  # type: ignore[arg-type]
    )
    run.go()
    return run


def means_of_best(holders: Sequence[Individual], configuration: Configuration) -> list[float]:
    """Mean fitness of the r best places, without NumPy; places without a holder are inf."""
    fitness = [one.fitness_or_inf for one in holders]
    fitness += [math.inf] * (configuration.population_size - len(fitness))
    best = sorted(fitness)[: configuration.n_elites]
    totals = list(itertools.accumulate(best))
    return [math.inf if best[r] == math.inf else total / (r + 1) for r, total in enumerate(totals)]


@settings(max_examples=200)
@given(asynchronous, landscapes, orders, st.integers(1, 6), st.sampled_from([0.0, 0.2]))
def test_no_event_makes_the_mean_of_the_r_best_worse(
    configuration: Configuration,
    landscape: Landscape,
    order: random.Random,
    n_workers: int,
    deaths: float,
) -> None:
    """Plans and results out of date, deaths, ties, NaN and infinities of both signs."""
    run = simulate(configuration, landscape, order, n_workers=n_workers, deaths=deaths)
    before = means_of_best([], configuration)
    for key, holders in run.population.events:
        after = means_of_best(holders, configuration)
        for r, (was, now) in enumerate(zip(before, after, strict=True), start=1):
            assert now <= was, f"the mean of the {r} best got worse with {key}"
        before = after


@settings(max_examples=100)
@given(asynchronous, landscapes, orders, st.integers(1, 4))
def test_stored_certificates_never_get_worse(
    configuration: Configuration, landscape: Landscape, order: random.Random, n_workers: int
) -> None:
    run = simulate(configuration, landscape, order, n_workers=n_workers)
    stored = [plan.certificate for key, plan in sorted(run.population.plans.items())]
    stored = [certificate for certificate in stored if certificate]
    for before, after in itertools.pairwise(stored):
        assert len(before) == len(after) == configuration.n_elites
        assert all(now <= was for was, now in zip(before, after, strict=True))


@settings(max_examples=100)
@given(asynchronous, landscapes, orders, st.integers(1, 4))
def test_every_place_does_every_generation_and_its_share_of_offspring(
    configuration: Configuration, landscape: Landscape, order: random.Random, n_workers: int
) -> None:
    population = simulate(configuration, landscape, order, n_workers=n_workers).population
    n_rounds, n_generations = configuration.n_evolution_rounds, configuration.n_generations
    assert n_generations is not None
    assert all(slot.state == "finished" for slot in population.slots.values())
    for generation in range(n_generations):
        numbers = [one.reference.number for one in population.generation(generation)]
        assert numbers == list(range(configuration.population_size))
        for round_ in range(1, n_rounds + 1):
            bred = population.generation(generation, round_=round_)
            assert [one.reference.number for one in bred] == list(range(configuration.n_offspring))
    expected = configuration.population_size + n_rounds * configuration.n_offspring
    assert len(population.individuals) == n_generations * expected


@settings(max_examples=100)
@given(asynchronous, landscapes, orders, st.integers(1, 4))
def test_births_come_from_their_place_and_parents_are_trained_and_distinct(
    configuration: Configuration, landscape: Landscape, order: random.Random, n_workers: int
) -> None:
    population = simulate(configuration, landscape, order, n_workers=n_workers).population
    finished: set[Reference] = set()
    for key, _ in population.events:
        members = [
            one
            for one in population.generation(key.generation, round_=key.round)
            if one.reference.number in population.slots[key].numbers
        ]
        for one in members:
            assert set(one.parents) <= finished
            assert all(parent.round == 0 for parent in one.parents)
            assert len(set(one.parents)) == len(one.parents) <= configuration.n_parents
            if key.round:
                assert one.parents
                assert one.birth == "recombination"
            elif key.generation:
                _check_birth(one, population, configuration)
        finished |= {one.reference for one in members}


def _check_birth(
    one: Individual, population: FakePopulation, configuration: Configuration
) -> None:
    assert one.origin is not None
    origin = population.individuals[one.origin]
    number = one.reference.number
    assert one.origin.generation == one.reference.generation - 1
    assert one.birth_fitness == origin.fitness
    assert one.fitness is not None
    assert one.fitness <= one.birth_fitness
    if one.birth == "recombination":
        assert one.origin.number in brood_of(configuration, range(number, number + 1))
        assert one.parents == origin.parents
    else:
        assert one.parents == (one.origin,) == (Reference(one.origin.generation, 0, number),)


@settings(max_examples=60)
@given(asynchronous, landscapes)
def test_one_cohort_of_all_has_the_barrier_back(
    configuration: Configuration, landscape: Landscape
) -> None:
    """Then nobody is ahead of anybody, whoever works."""
    configuration = _with(configuration, cohort_size=configuration.population_size)
    population = simulate(configuration, landscape).population
    together = simulate(configuration, landscape, random.Random(0), n_workers=3).population
    assert together.individuals == population.individuals


@settings(max_examples=60)
@given(asynchronous, landscapes, orders, st.integers(2, 4))
def test_facts_stay_bounded_and_suffice(
    configuration: Configuration, landscape: Landscape, order: random.Random, n_workers: int
) -> None:
    """What ``decide`` needs is in them, whatever has become old in between."""
    mu, bred = configuration.population_size, configuration.n_offspring
    n_rounds, rho = configuration.n_evolution_rounds, configuration.n_parents
    most = 2 * mu + n_rounds * bred + rho * (mu + n_rounds * bred)

    def watch(facts: Facts, action: Action) -> None:
        assert len(facts.individuals) <= most

    run = simulate(configuration, landscape, order, n_workers=n_workers, watch=watch)
    assert len(run.population.facts().slots) == len({key.cohort for key in run.population.slots})


@settings(max_examples=60)
@given(asynchronous)
def test_broods_and_places_are_partitions(configuration: Configuration) -> None:
    mu = configuration.population_size
    n_cohorts = math.ceil(mu / configuration.cohort_size)
    places = [places_of(configuration, cohort) for cohort in range(n_cohorts)]
    assert [number for part in places for number in part] == list(range(mu))
    for parts in (places, [range(number, number + 1) for number in range(mu)]):
        broods = [number for part in parts for number in brood_of(configuration, part)]
        assert broods == list(range(configuration.n_offspring))


def _with(configuration: Configuration, **values: object) -> Configuration:
    return replace(configuration, **values)  # type: ignore[arg-type]


def scored(holders: list[float], offspring: list[float]) -> Facts:
    """One generation, finished everywhere, with offspring for place 0 alone."""
    trained = [
        Individual(reference=Reference(0, 0, number), birth="founder", species="sgd", fitness=f)
        for number, f in enumerate(holders)
    ]
    bred = [
        Individual(
            reference=Reference(0, 1, number),
            birth="recombination",
            parents=(Reference(0, 0, 1),),
            fitness=f,
        )
        for number, f in enumerate(offspring)
    ]
    return Facts(generation=0, round=1, individuals=(*trained, *bred))


FOUR = configuration(population_size=4, n_elites=2, n_offspring=12, asynchronous=True)


@pytest.mark.parametrize(
    ("holders", "offspring", "birth", "fitness"),
    [
        ([1.0, 2.0, 3.0, 4.0], [1.5, 9.0, 9.0], "elite", 1.0),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 9.0, 9.0], "elite", 1.0),
        ([2.0, 1.0, 3.0, 4.0], [1.5, 1.2, 9.0], "recombination", 1.2),
        ([4.0, 2.0, 1.0, 3.0], [9.0, 1.9, 1.8], "recombination", 1.8),
        ([math.inf, math.inf, math.inf, 3.0], [math.inf] * 3, "elite", math.inf),
        ([math.inf, 1.0, 2.0, 3.0], [math.inf, 7.0, math.inf], "recombination", 7.0),
        ([math.inf, 1.0, 2.0, 3.0], [math.inf] * 3, None, math.inf),
        ([9.0, 1.0, 2.0, 3.0], [math.inf] * 3, "survivor", 9.0),
    ],
)
def test_the_birth_of_a_place(
    holders: list[float], offspring: list[float], birth: str | None, fitness: float
) -> None:
    chosen = choose_birth(0, 0, scored(holders, offspring), FOUR)
    assert birth in (None, chosen.birth)
    assert (chosen.reference, chosen.birth_fitness) == (Reference(1, 0, 0), fitness)


def test_beyond_the_m_best_the_birth_is_drawn_from_all_candidates() -> None:
    """An offspring as good as the m-th best does not beat it."""
    facts = scored([4.0, 1.0, 2.0, 3.0], [2.0, 8.0, 9.0])
    births = [choose_birth(0, 0, facts, _with(FOUR, seed=seed)) for seed in range(800)]
    fitness = [one.birth_fitness for one in births]
    assert_frequencies(fitness, dict.fromkeys((2.0, 4.0, 8.0, 9.0), 0.25))
    assert {one.birth for one in births} == {"survivor", "recombination"}


def test_nobody_waits_for_a_place_that_is_behind() -> None:
    """One founder never finishes; all others do all their generations."""
    chosen = configuration(population_size=3, n_generations=4, asynchronous=True)
    explore = ExploreSpaces(chosen, SPACES)
    run = Run(chosen, explore, Landscape(0))
    population = run.population
    action = decide(population.facts(), chosen, explore)
    assert isinstance(action, Commit)
    population.commit_plan(action.plan)
    stuck = population.claim(SlotKey(0, 0, 1), "slow")
    assert stuck is not None
    while not isinstance(action := decide(population.facts(), chosen, explore), Wait):
        assert not isinstance(action, Stop)
        run.work(action)
    done = {slot.key for slot in population.facts().slots if slot.state == "finished"}
    assert done == {SlotKey(3, 1, 0), SlotKey(3, 1, 2)}
    assert [one.reference.number for one in current_holders(population.facts())] == [0, 2]
    (one,) = (one for one in population.generation(0) if one.reference.number == 1)
    assert population.finish(stuck, [Landscape(0).train(one, chosen)])
    assert isinstance(decide(population.facts(), chosen, explore), Commit)
    while not isinstance(action := decide(population.facts(), chosen, explore), Stop):
        run.work(action)


def test_the_place_furthest_behind_is_trained_first() -> None:
    chosen = configuration(population_size=3, n_generations=5, asynchronous=True)
    ahead: list[int] = []

    def watch(facts: Facts, action: Action) -> None:
        generations = [slot.key.generation for slot in facts.slots]
        ahead.append(max(generations, default=0) - min(generations, default=0))

    simulate(chosen, Landscape(0), watch=watch)
    assert max(ahead) == 1


def test_founders_are_trained_before_anybody_breeds() -> None:
    chosen = configuration(population_size=3, n_generations=1, asynchronous=True)
    actions: list[str] = []
    simulate(chosen, Landscape(0), watch=lambda facts, action: actions.append(_name(action)))
    assert actions == ["Commit", *["Train"] * 3, *["Commit"] * 3, *["Evaluate"] * 3, "Stop"]


def test_fewer_generations_than_were_done_is_the_end() -> None:
    chosen = configuration(n_generations=3, asynchronous=True)
    facts = simulate(chosen, Landscape(0)).population.facts()
    for n_generations in (1, 2, 3):
        fewer = _with(chosen, n_generations=n_generations)
        assert decide(facts, fewer, explore_nothing) == Stop()
    for more in (4, None):
        action = decide(facts, _with(chosen, n_generations=more), explore_nothing)
        assert isinstance(action, Commit)
        assert (action.plan.generation, action.plan.round) == (3, 0)


def test_an_asynchronous_run_gets_better() -> None:
    """Never worse would hold for a population that stands still."""
    for preset in ("coevolve", "paper"):
        chosen = configuration(preset=preset, n_generations=4, asynchronous=True)
        run = simulate(chosen, Landscape(0), random.Random(0), n_workers=3)
        first = next(h for _, h in run.population.events if len(h) == chosen.population_size)
        last = run.population.events[-1][1]
        assert means_of_best(last, chosen)[0] < means_of_best(first, chosen)[0]
        assert means_of_best(last, chosen)[-1] < means_of_best(first, chosen)[-1]


def _name(action: Action) -> str:
    assert isinstance(action, Commit | Train | Evaluate | Wait | Stop)
    return type(action).__name__
