from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import ExploreSpaces, explore_nothing
from optuna_esgd.engine.individual import Facts, Individual, Reference
from optuna_esgd.engine.planning import (
    current_pool,
    plan_founders,
    plan_offspring,
    plan_survivors,
    trained_ancestor,
)
from tests.engine.configurations import configuration, configurations
from tests.engine.fakes import SPACES, FakePopulation, Landscape, Run
from tests.evolution.statistics import assert_frequencies

landscapes = st.builds(
    Landscape, seed=st.integers(0, 2**32), oddity=st.sampled_from([0.0, 0.3, 1.0])
)


def simulate(configuration: Configuration, landscape: Landscape) -> FakePopulation:
    return Run(configuration, ExploreSpaces(configuration, SPACES), landscape).go()


def pool_after(
    population: FakePopulation, configuration: Configuration, generation: int, round_: int
) -> list[Individual]:
    """Who was alive after a round of a generation long past."""
    individuals = tuple(
        one
        for reference, one in sorted(population.individuals.items())
        if reference.generation == generation and reference.round <= round_
    )
    facts = Facts(generation=generation, round=round_, individuals=individuals)
    return current_pool(facts, configuration)


@settings(max_examples=60)
@given(configurations(), landscapes)
def test_births_are_the_survivors(configuration: Configuration, landscape: Landscape) -> None:
    population = simulate(configuration, landscape)
    n_rounds = configuration.n_evolution_rounds if configuration.n_offspring else 0
    assert configuration.n_generations is not None
    for generation in range(1, configuration.n_generations):
        pool = pool_after(population, configuration, generation - 1, n_rounds)
        assert len({one.reference for one in pool}) == configuration.population_size
        for birth, survivor in zip(population.generation(generation), pool, strict=True):
            assert birth.origin == survivor.reference
            assert birth.birth_fitness == survivor.fitness
            assert birth.mutation_scale == 0
            if survivor.reference.round:
                assert birth.birth == "recombination"
                assert birth.parents == survivor.parents
            else:
                assert birth.birth in ("elite", "survivor")
                assert birth.parents == (survivor.reference,)


@settings(max_examples=60)
@given(configurations(), landscapes)
def test_founders_have_no_lineage(configuration: Configuration, landscape: Landscape) -> None:
    for one in simulate(configuration, landscape).generation(0):
        assert (one.birth, one.origin, one.parents) == ("founder", None, ())
        assert not one.inherits_optimizer_state


@settings(max_examples=60)
@given(configurations(n_evolution_rounds=2), landscapes)
def test_parents_are_alive_distinct_and_of_this_generation(
    configuration: Configuration, landscape: Landscape
) -> None:
    population = simulate(configuration, landscape)
    for (generation, round_), plan in population.plans.items():
        if round_ == 0:
            continue
        alive = {
            one.reference: one
            for one in pool_after(population, configuration, generation, round_ - 1)
        }
        n_finite = sum(math.isfinite(one.fitness or 0) for one in alive.values())
        for child in plan.individuals:
            assert child.birth == "recombination"
            assert child.origin is child.fitness is child.birth_fitness is None
            assert child.species == ""
            assert child.mutation_scale == configuration.mutation_scale / (generation + 1)
            assert len(set(child.parents)) == len(child.parents) == configuration.n_parents
            assert set(child.parents) <= alive.keys()
            diverged = [p for p in child.parents if alive[p].fitness == math.inf]
            assert len(diverged) == max(0, configuration.n_parents - n_finite)


def evolved(fitness: list[float], offspring: list[float]) -> Facts:
    """One finished generation with one finished evolution round, its fitness by hand."""
    trained = [
        Individual(reference=Reference(0, 0, number), birth="founder", species="sgd", fitness=f)
        for number, f in enumerate(fitness)
    ]
    bred = [
        Individual(
            reference=Reference(0, 1, number),
            birth="recombination",
            parents=(Reference(0, 0, 1), Reference(0, 0, 0)),
            fitness=f,
        )
        for number, f in enumerate(offspring)
    ]
    return Facts(generation=0, round=1 if bred else 0, individuals=(*trained, *bred))


def test_births_are_labelled_elite_survivor_or_recombination() -> None:
    chosen = configuration(population_size=4, n_elites=2, n_offspring=2, explore="resample")
    facts = evolved([4.0, 3.0, 2.0, math.inf], [1.0, math.inf])
    plan = plan_survivors(facts, chosen, explore_nothing)
    assert [one.birth for one in plan.individuals] == ["recombination", "elite", *["survivor"] * 2]
    assert [one.birth_fitness for one in plan.individuals[:2]] == [1.0, 2.0]
    assert {one.birth_fitness for one in plan.individuals[2:]} == {3.0, 4.0}
    assert plan.certificate == (1.0, 1.5)


@pytest.mark.parametrize("unselected", [{"n_offspring": 0}, {"n_evolution_rounds": 0}])
def test_without_an_evolution_round_everyone_is_an_elite(unselected: dict[str, int]) -> None:
    """Nobody was selected: no label may depend on who happens to have which number."""
    chosen = configuration(population_size=4, n_elites=2, **unselected)
    plan = plan_survivors(evolved([4.0, 3.0, 2.0, 1.0], []), chosen, explore_nothing)
    assert [one.birth for one in plan.individuals] == ["elite"] * 4
    assert [one.birth_fitness for one in plan.individuals] == [4.0, 3.0, 2.0, 1.0]
    assert plan.certificate == (1.0, 1.5)


def test_the_random_rest_reaches_ranks_beyond_the_population() -> None:
    """μ + λ = 10 candidates, m = 1 of μ = 4: truncation would never let ranks 4..9 live."""
    survived = []
    for seed in range(700):
        chosen = configuration(population_size=4, n_elites=1, n_offspring=6, seed=seed)
        facts = evolved([0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
        plan = plan_survivors(facts, chosen, explore_nothing)
        assert plan.individuals[0].birth_fitness == 0.0
        survived += [one.birth_fitness for one in plan.individuals[1:]]
    assert_frequencies(survived, {float(rank): 1 / 9 for rank in range(1, 10)})


def test_first_parents_of_the_offspring_follow_the_roulette_wheel() -> None:
    chosen = configuration(population_size=4, n_offspring=3000)
    plan = plan_offspring(evolved([3.0, 1.0, math.inf, 2.0], []), chosen)
    first = [one.parents[0].number for one in plan.individuals]
    assert_frequencies(first, {0: 2 / 9, 1: 4 / 9, 2: 0.0, 3: 3 / 9})


def test_an_unfinished_fitness_counts_as_diverged() -> None:
    facts = evolved([2.0, 1.0], [])
    unfinished = replace(facts.individuals[0], fitness=None)
    facts = replace(facts, individuals=(unfinished, facts.individuals[1]))
    chosen = configuration(population_size=2, n_elites=2, n_offspring=0)
    assert plan_survivors(facts, chosen, explore_nothing).certificate == (1.0, math.inf)


def test_the_founders_plan_depends_on_the_seed_only() -> None:
    one, same, other = (configuration(seed=seed) for seed in (0, 0, 1))
    plans = [plan_founders(c, ExploreSpaces(c, SPACES)) for c in (one, same, other)]
    assert plans[0] == plans[1] != plans[2]


def test_trained_ancestors_are_found_through_both_rounds() -> None:
    trained = Individual(reference=Reference(4, 0, 3), birth="founder", species="adam")
    child = Individual(
        reference=Reference(4, 1, 7),
        birth="recombination",
        parents=(trained.reference, Reference(4, 0, 0)),
    )
    grandchild = Individual(
        reference=Reference(4, 2, 1),
        birth="recombination",
        parents=(child.reference, Reference(4, 0, 0)),
    )
    parents = {one.reference: one for one in (trained, child, grandchild)}

    def birth(*parents: Reference) -> Individual:
        return Individual(reference=Reference(5, 0, 0), birth="survivor", parents=parents)

    assert trained_ancestor(birth(trained.reference), parents) is trained
    assert trained_ancestor(birth(*child.parents), parents) is trained
    assert trained_ancestor(birth(*grandchild.parents), parents) is trained
    assert trained_ancestor(birth(), parents) is None


@settings(max_examples=40)
@given(configurations(selection="truncation", n_offspring=0, explore="perturb"), landscapes)
def test_truncation_copies_into_places_and_only_copies_explore(
    configuration: Configuration, landscape: Landscape
) -> None:
    population = simulate(configuration, landscape)
    assert configuration.n_generations is not None
    n_copies = max(1, configuration.population_size // 4)
    for generation in range(1, configuration.n_generations):
        before, births = population.generation(generation - 1), population.generation(generation)
        worst = sorted(one.fitness_or_inf for one in before)[-n_copies:]
        copies = [one for one in births if one.origin != before[one.reference.number].reference]
        assert sorted(before[one.reference.number].fitness_or_inf for one in copies) == worst
        for birth in births:
            assert birth.birth == ("survivor" if birth in copies else "elite")
            origin = population.individuals[birth.parents[0]]
            assert birth.birth_fitness == origin.fitness
            if birth not in copies:
                assert birth.species == origin.species
                assert birth.hyperparameters == origin.hyperparameters
                assert birth.inherits_optimizer_state == configuration.inherit_optimizer_state


def test_copies_are_perturbed() -> None:
    chosen = configuration(
        selection="truncation", n_offspring=0, resample_probability=0.0, population_size=8
    )
    facts = evolved([float(number) for number in range(8)], [])
    spaces = {"sgd": SPACES["sgd"]}
    founders = plan_founders(chosen, ExploreSpaces(chosen, spaces)).individuals
    individuals = tuple(
        replace(one, fitness=trained.fitness)
        for one, trained in zip(founders, facts.individuals, strict=True)
    )
    plan = plan_survivors(
        replace(facts, individuals=individuals), chosen, ExploreSpaces(chosen, spaces)
    )
    for birth in plan.individuals:
        origin = individuals[birth.parents[0].number]
        assert (birth.hyperparameters["lr"] == origin.hyperparameters["lr"]) == (
            birth.reference.number < 6
        )
