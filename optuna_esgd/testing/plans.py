"""Contract: plans are stored exactly, and exactly once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Facts, Individual, Plan, Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Value
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import (
    example_plan,
    example_snapshot,
    finish_generation,
    outcome,
    take,
)

_LAYOUT = '{"aliases":{},"tensors":[["body.weight",[3,4],"F32","parameter"]]}'
_OTHER_LAYOUT = '{"aliases":{},"tensors":[["body.weight",[3,5],"F32","parameter"]]}'
_ODD_FLOATS = (5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1 / 3, -2.5e-17)


class PlanContract(Contract):
    """Plans, facts, certificates, layouts."""

    def test_new_population_is_empty(
        self, population: Population, configuration: Configuration
    ) -> None:
        """Nothing is known of it but its name and its configuration."""
        assert population.facts() == Facts()
        assert population.individuals() == ()
        assert population.slots() == ()
        assert population.certificates() == {}
        assert population.best() is None
        assert population.stored_bytes() == 0
        assert population.collect_garbage() == 0
        assert len(population.uuid) == 32
        configuration.check_same(population.configuration)

    def test_plan_is_stored_exactly(self, population: Population) -> None:
        """Floats to the last bit, values of every type, any text."""
        hyperparameters: Mapping[str, Value] = {
            **{f"float {number}": value for number, value in enumerate(_ODD_FLOATS)},
            "whole": 10**15,
            "true": True,
            "nothing": None,
            "text": "naïve 🦎 'quoted' \"%s\" {x} :y",
        }
        odd = Individual(
            reference=Reference(0, 0, 0),
            birth="recombination",
            origin=Reference(0, 3, 12),
            parents=(Reference(0, 0, 2), Reference(0, 1, 7)),
            mutation_scale=1 / 7,
            species="Ädam",
            hyperparameters=hyperparameters,
            inherits_optimizer_state=True,
            birth_fitness=0.1 + 0.2,
        )
        diverged = replace(odd, reference=Reference(0, 0, 1), birth_fitness=math.inf)
        bare = Individual(reference=Reference(0, 0, 2), birth="founder")
        plan = Plan(
            generation=0, round=0, individuals=(odd, diverged, bare), cohorts=((0, 2), (1,))
        )
        assert population.commit_plan(plan)
        facts = population.facts()
        assert facts.individuals == plan.individuals
        assert [(slot.key, slot.numbers) for slot in facts.slots] == [
            (SlotKey(0, 0, 0), (0, 2)),
            (SlotKey(0, 0, 1), (1,)),
        ]
        assert all(slot.is_claimable and slot.state == "free" for slot in facts.slots)

    def test_second_plan_of_a_round_is_refused(self, population: Population) -> None:
        """The first one stands."""
        assert population.commit_plan(example_plan(0))
        assert not population.commit_plan(example_plan(0, n_individuals=6))
        assert len(population.individuals()) == 4

    def test_one_of_many_planners_wins(self, population: Population) -> None:
        """Whoever comes second reads the winner's plan."""
        won = self.race(lambda _: population.commit_plan(example_plan(0)))
        assert sorted(won) == [False] * (self.n_threads - 1) + [True]
        assert len(population.individuals()) == 4
        assert len(population.slots()) == 2

    def test_facts_are_of_the_latest_generation_and_round(self, population: Population) -> None:
        """All rounds of the latest generation, but only the latest round's slots."""
        for plan in (example_plan(0), example_plan(1), example_plan(1, round_=1)):
            assert population.commit_plan(plan)
        facts = population.facts()
        assert (facts.generation, facts.round) == (1, 1)
        assert [one.reference[:2] for one in facts.individuals] == [(1, 0)] * 4 + [(1, 1)] * 4
        assert [slot.key for slot in facts.slots] == [SlotKey(1, 1, 0), SlotKey(1, 1, 1)]
        assert len(population.individuals()) == 12
        assert len(population.individuals(generation=0)) == 4
        assert population.individuals(generation=7) == ()
        assert len(population.slots()) == 6
        assert [slot.key.generation for slot in population.slots(generation=0)] == [0, 0]

    def test_certificates_are_stored_exactly(self, population: Population) -> None:
        """Also where they are infinite; rounds without one are left out."""
        certificate = (*_ODD_FLOATS, math.inf, -math.inf)
        assert population.commit_plan(example_plan(0))
        assert population.commit_plan(example_plan(1, certificate=certificate))
        assert population.commit_plan(example_plan(1, round_=1))
        assert population.certificates() == {1: certificate}

    def test_finished_slots_have_finished_individuals_in_all_facts(
        self, population: Population
    ) -> None:
        """Facts are one snapshot: never a slot from after and individuals from before."""
        plan = example_plan(0, n_individuals=16, cohort_size=4)
        population.commit_plan(plan)

        def finish_or_watch(number: int) -> None:
            if number:
                for _ in range(20):
                    facts = population.facts()
                    ended = {one.reference.number for one in facts.individuals if one.fitness}
                    for slot in facts.slots:
                        assert slot.state != "finished" or set(slot.numbers) <= ended
                return
            for slot in population.slots():
                claim = take(population, slot.key)
                population.finish(claim, [outcome(n) for n in slot.numbers])

        self.race(finish_or_watch)

    def test_best_is_the_lowest_and_the_earliest(self, population: Population) -> None:
        """Diverged ones come last, unfinished ones do not count."""
        finish_generation(population, 0, fitness=(math.inf, 3.0, 2.0, math.nan))
        finish_generation(population, 1, fitness=(2.0, 2.0, math.inf, 9.0))
        population.commit_plan(example_plan(2))
        best = population.best()
        assert best is not None
        assert best.reference == Reference(0, 0, 2)
        assert best.fitness == 2.0

    def test_best_may_have_diverged_where_all_have(self, population: Population) -> None:
        """Somebody is always best, once somebody has ended."""
        finish_generation(population, 0, fitness=(math.inf, math.nan, -math.inf, math.inf))
        best = population.best()
        assert best is not None
        assert (best.reference, best.fitness) == (Reference(0, 0, 0), math.inf)

    def test_offspring_is_best_only_with_weights_of_its_own(self, population: Population) -> None:
        """Others would have to be bred again, and cannot be once their parents are collected."""
        finish_generation(population, 0, fitness=(5.0, 6.0, 7.0, 8.0))
        population.commit_plan(example_plan(0, round_=1))
        claim = take(population, SlotKey(0, 1, 0))
        weights = example_snapshot(population.uuid)
        ended = [outcome(0, 1.0), outcome(1, 2.0, weights=weights)]
        assert population.finish(claim, ended)
        best = population.best()
        assert best is not None
        assert best.reference == Reference(0, 1, 1)

    def test_layout_of_another_model_is_refused(self, population: Population) -> None:
        """The message names the tensor that differs."""
        population.check_layout(_LAYOUT)
        population.check_layout(_LAYOUT)
        with pytest.raises(ConfigurationError, match=r"'body\.weight'"):
            population.check_layout(_OTHER_LAYOUT)
        population.check_layout(_LAYOUT)

    def test_one_of_many_layouts_is_remembered(self, population: Population) -> None:
        """Two models cannot both be first."""

        def check(number: int) -> bool:
            try:
                population.check_layout(_LAYOUT if number % 2 else _OTHER_LAYOUT)
            except ConfigurationError:
                return False
            return True

        agreed = self.race(check)
        assert agreed in (
            [number % 2 == 1 for number in range(self.n_threads)],
            [number % 2 == 0 for number in range(self.n_threads)],
        )
