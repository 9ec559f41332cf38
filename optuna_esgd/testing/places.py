"""Contract: an asynchronous population, where every cohort is in a generation of its own."""

from __future__ import annotations

import threading
import time

import pytest

from optuna_esgd.engine.asynchronous import plan_births, plan_brood
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.foresight import after_slot
from optuna_esgd.engine.individual import Facts, Plan, Reference, Slot, SlotKey
from optuna_esgd.engine.places import current_holders
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import (
    ends_of,
    example_configuration,
    example_part,
    example_plan,
    finish_slot,
    take,
)
from optuna_esgd.testing.runs import read_birth, run

asynchronous = pytest.mark.parametrize(
    "configuration", [example_configuration(asynchronous=True, n_generations=5)], ids=[""]
)


class PlaceContract(Contract):
    """Plans for a part of a round, facts by place, and what is kept for places that are behind."""

    @asynchronous
    def test_parts_of_a_round_are_stored_one_by_one(self, population: Population) -> None:
        """In any order; the round's certificate is the first one's."""
        assert population.commit_plan(example_plan(0))
        assert population.commit_plan(example_part(1, 1, certificate=(1.0, 2.0)))
        assert not population.commit_plan(example_part(1, 1, certificate=(0.0,)))
        assert population.commit_plan(example_part(1, 0, certificate=(0.5, 0.5)))
        assert not population.commit_plan(example_plan(1))
        assert population.certificates() == {1: (1.0, 2.0)}
        later = population.slots(generation=1)
        assert [(slot.key, slot.numbers) for slot in later] == [
            (SlotKey(1, 0, 0), (0, 1)),
            (SlotKey(1, 0, 1), (2, 3)),
        ]
        members = population.individuals(generation=1)
        assert [one.reference.number for one in members] == [0, 1, 2, 3]

    @asynchronous
    def test_parts_are_planned_at_the_same_time(self, population: Population) -> None:
        """Nobody is in the way of another cohort's planners, and one of each cohort's wins."""
        population.commit_plan(example_plan(0))
        won = self.race(lambda n: (n % 2, population.commit_plan(example_part(1, n % 2))))
        assert sorted(cohort for cohort, is_first in won if is_first) == [0, 1]
        assert len(population.slots(generation=1)) == 2

    @asynchronous
    def test_facts_are_of_each_place(self, population: Population) -> None:
        """One cohort trains its second individuals, the other breeds for its third."""
        assert population.facts() == Facts()
        population.commit_plan(example_plan(0))
        seen = [population.facts()]
        for cohort in (0, 1):
            finish_slot(population, SlotKey(0, 0, cohort))
            seen.append(population.facts(seen[-1]))
        population.commit_plan(example_part(1, 0))
        for generation in (1, 2):
            population.commit_plan(example_part(generation, 1))
            seen.append(population.facts(seen[-1]))
            finish_slot(population, SlotKey(generation, 0, 1), 2.0 - generation)
        population.commit_plan(example_part(2, 1, round_=1))
        facts = population.facts()
        assert (facts.generation, facts.round) == (2, 1)
        assert [slot.key for slot in facts.slots] == [SlotKey(1, 0, 0), SlotKey(2, 1, 1)]
        assert [slot.state for slot in facts.slots] == ["free", "free"]
        held, open_ = ["0.0.0", "0.0.1", "2.0.2", "2.0.3"], ["1.0.0", "1.0.1", "2.1.2", "2.1.3"]
        assert [str(one.reference) for one in facts.individuals] == sorted(held + open_)
        assert [str(one.reference) for one in current_holders(facts)] == held
        for before in seen:  # whatever is known
            assert population.facts(before) == facts

    @asynchronous
    def test_finished_slots_are_in_order(self, population: Population) -> None:
        """By time, not by number."""
        population.commit_plan(example_plan(0, n_individuals=6))
        keys = [SlotKey(0, 0, cohort) for cohort in (2, 0, 1)]
        assert population.finish_order() == ()
        for n_finished, key in enumerate(keys, start=1):
            time.sleep(0.01)  # SQLite's clock has milliseconds
            finish_slot(population, key)
            assert population.finish_order() == tuple(keys[:n_finished])

    @asynchronous
    def test_plan_on_collected_weights_is_refused(
        self, population: Population, configuration: Configuration
    ) -> None:
        """Its maker read the facts, and then slept while the others went on."""
        self._begin(population)
        (facts, slot) = self._finished(population, 0)
        stale = plan_brood(slot, facts, configuration)
        partner = next(one for one in stale.trained_parents if one.number >= 2)
        for _ in range(2):
            self._advance(population, configuration, 1)
        population.collect_garbage()
        assert not next(
            one for one in population.individuals() if one.reference == partner
        ).is_stored
        assert not population.commit_plan(stale)
        (facts, slot) = self._finished(population, 0)
        assert population.commit_plan(plan_brood(slot, facts, configuration))

    @asynchronous
    def test_a_slot_leads_on_to_its_places_next_plan_and_to_another_place(
        self, population: Population, configuration: Configuration
    ) -> None:
        """All at once: the worker need not stay with the places it has planned for."""
        population.commit_plan(example_plan(0))
        claim = take(population, SlotKey(0, 0, 0))
        onward = population.finish_and_go_on(
            claim,
            ends_of(population, claim),
            plan=example_part(0, 0, round_=1),
            keys=[SlotKey(0, 0, 1), SlotKey(0, 1, 0)],
            lease_seconds=60,
        )
        assert onward.is_planned
        assert onward.claim is not None
        assert onward.claim.slot.key == SlotKey(0, 0, 1)
        facts = population.facts()
        assert [(slot.key, slot.state) for slot in facts.slots] == [
            (SlotKey(0, 1, 0), "free"),
            (SlotKey(0, 0, 1), "claimed"),
        ]
        assert verify(population, configuration) == []

    @asynchronous
    def test_a_slot_is_finished_even_if_its_plan_comes_too_late(
        self, population: Population, configuration: Configuration
    ) -> None:
        """Its maker read the facts, and then slept while the others went on."""
        population.commit_plan(example_plan(0))
        finish_slot(population, SlotKey(0, 0, 1), 5.0)
        claim = take(population, SlotKey(0, 0, 0))
        ended = ends_of(population, claim)
        facts = after_slot(population.facts(), claim, ended)
        late = plan_brood(facts.slots[0], facts, configuration)
        assert any(parent.number >= 2 for parent in late.trained_parents)
        for _ in range(2):
            self._advance(population, configuration, 1)
        population.collect_garbage()
        onward = population.finish_and_go_on(
            claim, ended, plan=late, keys=late.slot_keys, lease_seconds=60
        )
        assert (onward.is_finished, onward.is_planned, onward.claim) == (True, False, None)
        (facts, slot) = self._finished(population, 0)
        assert slot.key == SlotKey(0, 0, 0)
        assert population.commit_plan(plan_brood(slot, facts, configuration))

    @asynchronous
    def test_optimizer_states_are_kept_with_the_weights(
        self, population: Population, configuration: Configuration
    ) -> None:
        """Somebody may have planned, before the others went on, to breed from a pinned one."""
        self._begin(population)
        pinned, other = Reference(0, 0, 2), Reference(0, 0, 3)
        population.pin(pinned)
        for _ in range(3):
            self._advance(population, configuration, 1)
        population.collect_garbage()
        assert population.read_weights(pinned) is not None
        assert population.read_optimizer_state(pinned) is not None
        assert population.read_optimizer_state(other) is None
        population.pin(pinned, pinned=False)
        population.collect_garbage()
        assert population.read_optimizer_state(pinned) is None

    @asynchronous
    @pytest.mark.parametrize("n_plans", [1, 2], ids=["scoring", "training"])
    def test_a_place_left_behind_finds_what_it_needs(
        self, population: Population, configuration: Configuration, n_plans: int
    ) -> None:
        """One cohort is stuck, scoring or training, for many generations of the other."""
        self._begin(population)
        self._advance(population, configuration, 0, n_plans=n_plans, is_open=True)
        (key,) = (slot.key for slot in population.facts().slots if slot.key.cohort == 0)
        stuck = take(population, key)
        most = 0
        for _ in range(6):
            self._advance(population, configuration, 1)
            population.collect_garbage()
            most = max(most, population.stored_bytes())
        assert most <= 12 * 1000 + 9, "bounded, however far the others are"
        for one in population.individuals(generation=key.generation):
            if one.reference.round == key.round and one.reference.number in stuck.slot.numbers:
                read_birth(population, one)
        assert population.release(stuck)
        finish_slot(population, key)
        self._advance(population, configuration, 0)
        assert verify(population, configuration) == []

    @asynchronous
    def test_whole_asynchronous_run_is_true_and_bounded(
        self, population: Population, configuration: Configuration
    ) -> None:
        """Workers in threads; whatever a place needs is read on the way."""
        workers = [
            threading.Thread(target=run, args=(population, configuration)) for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert verify(population, configuration) == []
        slots = population.slots()
        assert all(slot.state == "finished" for slot in slots)
        assert len(slots) == 2 * 2 * 5
        population.collect_garbage()
        size, n_offspring = configuration.population_size, configuration.n_offspring
        most = size + configuration.n_parents * n_offspring + 1
        assert population.stored_bytes() <= most * (1000 + 100)

    def _begin(self, population: Population) -> None:
        population.commit_plan(example_plan(0))
        for cohort in (0, 1):
            finish_slot(population, SlotKey(0, 0, cohort), 5.0 - cohort)

    def _finished(self, population: Population, cohort: int) -> tuple[Facts, Slot]:
        facts = population.facts()
        slot = facts.slots[cohort]
        assert slot.state == "finished"
        return facts, slot

    def _advance(
        self,
        population: Population,
        configuration: Configuration,
        cohort: int,
        *,
        n_plans: int = 2,
        is_open: bool = False,
    ) -> None:
        """Take one cohort through a generation, or a part of it; its last slot may stay open."""
        for number in range(n_plans):
            facts, slot = self._finished(population, cohort)
            plan: Plan
            if slot.key.round == 0:
                plan = plan_brood(slot, facts, configuration)
            else:
                plan = plan_births(slot, facts, configuration, explore_nothing)
            assert population.commit_plan(plan)
            for one in plan.individuals:
                read_birth(population, one)
            if not is_open or number + 1 < n_plans:
                self._finish(population, plan)

    def _finish(self, population: Population, plan: Plan) -> None:
        (key,) = plan.slot_keys
        births = [one.birth_fitness for one in plan.individuals if one.birth_fitness is not None]
        finish_slot(population, key, min(births) if births else 1.0 + key.generation)
