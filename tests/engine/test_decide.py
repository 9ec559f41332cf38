from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.explore import ExploreSpaces, explore_nothing
from optuna_esgd.engine.individual import Facts, SlotKey
from tests.engine.configurations import configuration, configurations
from tests.engine.fakes import SPACES, FakePopulation, Landscape, Run

SMOOTH = Landscape(0)
landscapes = st.builds(
    Landscape, seed=st.integers(0, 2**32), oddity=st.sampled_from([0.0, 0.3, 1.0])
)


def simulate(
    configuration: Configuration, landscape: Landscape = SMOOTH, **options: object
) -> Run:
    run = Run(configuration, ExploreSpaces(configuration, SPACES), landscape, **options)  # type: ignore[arg-type]
    run.go()
    return run


@settings(max_examples=60)
@given(
    configurations(),
    landscapes,
    st.integers(2, 5),
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, 0.3]),
)
def test_the_result_does_not_depend_on_who_did_what_when(
    configuration: Configuration,
    landscape: Landscape,
    n_workers: int,
    order: random.Random,
    deaths: float,
) -> None:
    """Any number of workers, slots in any order, plans and results out of date, deaths."""
    alone = simulate(configuration, landscape).population
    together = simulate(
        configuration, landscape, n_workers=n_workers, order=order, deaths=deaths
    ).population
    assert together.plans == alone.plans
    assert together.individuals == alone.individuals


@settings(max_examples=40)
@given(configurations(), landscapes, st.data())
def test_the_partition_into_cohorts_changes_no_plan(
    configuration: Configuration, landscape: Landscape, data: st.DataObject
) -> None:
    other = replace(
        configuration, cohort_size=data.draw(st.integers(1, configuration.population_size))
    )
    assert (
        simulate(configuration, landscape).population.individuals
        == simulate(other, landscape).population.individuals
    )


@settings(max_examples=40)
@given(configurations(), landscapes)
def test_the_same_facts_give_the_same_action(
    configuration: Configuration, landscape: Landscape
) -> None:
    decisions: list[tuple[Facts, Action]] = []
    simulate(
        configuration, landscape, watch=lambda facts, action: decisions.append((facts, action))
    )
    random.Random(0).shuffle(decisions)
    explore = ExploreSpaces(configuration, dict(reversed(SPACES.items())))
    for facts, action in decisions:
        assert decide(facts, configuration, explore) == action


@settings(max_examples=60)
@given(configurations(), landscapes)
def test_a_run_has_exactly_the_generations_and_rounds_asked_for(
    configuration: Configuration, landscape: Landscape
) -> None:
    run = simulate(configuration, landscape)
    n_rounds = configuration.n_evolution_rounds if configuration.n_offspring else 0
    assert configuration.n_generations is not None
    assert set(run.population.plans) == {
        (generation, round_)
        for generation in range(configuration.n_generations)
        for round_ in range(n_rounds + 1)
    }
    n_cohorts = -(-configuration.population_size // configuration.cohort_size)
    for (_, round_), plan in run.population.plans.items():
        size = configuration.n_offspring if round_ else configuration.population_size
        assert [one.reference.number for one in plan.individuals] == list(range(size))
        assert [number for cohort in plan.cohorts for number in cohort] == list(range(size))
        assert all(plan.cohorts)
        assert len(plan.cohorts) <= n_cohorts
        assert round_ or max(map(len, plan.cohorts)) <= configuration.cohort_size
    assert all(slot.state == "finished" for slot in run.population.slots.values())
    assert all(slot.attempt == 1 for slot in run.population.slots.values())


@pytest.mark.parametrize("n_evolution_rounds", [0, 1, 2])
def test_stop_comes_once_after_the_last_generation(n_evolution_rounds: int) -> None:
    chosen = configuration(n_evolution_rounds=n_evolution_rounds, cohort_size=4, n_generations=2)
    actions: list[str] = []
    simulate(chosen, watch=lambda facts, action: actions.append(type(action).__name__))
    evolution = ["Commit", "Evaluate"] * n_evolution_rounds
    assert actions == [*["Commit", "Train", *evolution] * 2, "Stop"]


def test_a_run_without_end_goes_on() -> None:
    chosen = configuration(n_generations=1)
    facts = simulate(chosen).population.facts()
    assert decide(facts, chosen, explore_nothing) == Stop()
    endless = replace(chosen, n_generations=None)
    action = decide(facts, endless, explore_nothing)
    assert isinstance(action, Commit)
    assert (action.plan.generation, action.plan.round) == (1, 0)


def test_a_study_opened_again_with_fewer_generations_stops() -> None:
    facts = simulate(configuration(n_generations=3)).population.facts()
    for n_generations in (1, 2, 3):
        assert decide(facts, configuration(n_generations=n_generations), explore_nothing) == Stop()


def test_what_others_hold_is_waited_for() -> None:
    chosen = configuration(population_size=2, n_generations=1, n_offspring=1)
    population = FakePopulation()
    action = decide(population.facts(), chosen, explore_nothing)
    assert isinstance(action, Commit)
    population.commit_plan(action.plan)
    first, second = SlotKey(0, 0, 0), SlotKey(0, 0, 1)

    action = decide(population.facts(), chosen, explore_nothing)
    assert isinstance(action, Train)
    assert [slot.key for slot in action.slots] == [first, second]

    claims = {key: population.claim(key, "me") for key in (first, second)}
    assert decide(population.facts(), chosen, explore_nothing) == Wait()

    for key in (first, second):  # one finished slot is not enough for the offspring's plan
        assert decide(population.facts(), chosen, explore_nothing) == Wait()
        claim = claims[key]
        assert claim is not None
        one = next(one for one in population.generation(0) if one.reference.number == key.cohort)
        assert population.finish(claim, [Landscape(0).train(one, chosen)])
    action = decide(population.facts(), chosen, explore_nothing)
    assert isinstance(action, Commit)
    assert action.plan.round == 1


def test_a_lease_that_ran_out_is_offered_again() -> None:
    chosen = configuration(population_size=2, cohort_size=2)
    population = FakePopulation()
    action = decide(population.facts(), chosen, explore_nothing)
    assert isinstance(action, Commit)
    population.commit_plan(action.plan)
    claim = population.claim(SlotKey(0, 0, 0), "me")
    assert claim is not None
    population.expire(claim)
    action = decide(population.facts(), chosen, explore_nothing)
    assert isinstance(action, Train)
    assert [slot.key for slot in action.slots] == [SlotKey(0, 0, 0)]
    assert population.claim(SlotKey(0, 0, 0), "another") is not None
    outcomes = [Landscape(0).train(one, chosen) for one in population.generation(0)]
    assert not population.finish(claim, outcomes), "a lost claim must not write"


def test_offspring_are_evaluated_not_trained() -> None:
    kinds: Counter[tuple[int, type[Action]]] = Counter()
    chosen = configuration(n_evolution_rounds=2)

    def watch(facts: Facts, action: Action) -> None:
        if isinstance(action, Train | Evaluate):
            kinds[facts.round, type(action)] += 1

    simulate(chosen, watch=watch)
    assert kinds == {(0, Train): 12, (1, Evaluate): 12, (2, Evaluate): 12}
