"""Contract: what figures are drawn from."""

from __future__ import annotations

import pytest

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Chronicle, Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import (
    example_configuration,
    example_plan,
    example_snapshot,
    finish_generation,
    outcome,
    take,
)
from optuna_esgd.testing.runs import run


class ChronicleContract(Contract):
    """Individuals and spans, in one snapshot."""

    def test_chronicle_of_nobody(self, population: Population) -> None:
        """Before the first plan there is nothing to tell."""
        chronicle = population.chronicle()
        assert chronicle == Chronicle(read_at=chronicle.read_at)

    def test_chronicle_has_everyone_who_trains(self, population: Population) -> None:
        """Exactly as ``individuals`` tells them, finished or not."""
        finish_generation(population, 0)
        population.commit_plan(example_plan(1))
        assert population.chronicle().individuals == population.individuals()

    def test_chronicle_leaves_out_offspring_without_weights(self, population: Population) -> None:
        """Most offspring are rejected; one whose weights are stored may be the best of all."""
        finish_generation(population, 0)
        population.commit_plan(example_plan(0, round_=1))
        claim = take(population, SlotKey(0, 1, 0))
        weights = example_snapshot(population.uuid)
        assert population.finish(claim, [outcome(0, 0.5), outcome(1, 0.1, weights=weights)])
        told = [one.reference for one in population.chronicle().individuals]
        assert told == [Reference(0, 0, number) for number in range(4)] + [Reference(0, 1, 1)]

    def test_spans_are_claimed_and_finished_slots(self, population: Population) -> None:
        """With who works on what; a slot given back is nobody's."""
        population.commit_plan(example_plan(0, n_individuals=6))
        for cohort in (2, 1, 0):
            claim = take(population, SlotKey(0, 0, cohort))
            if cohort == 1:
                population.finish(claim, [outcome(2), outcome(3)])
            elif cohort == 2:
                population.release(claim)
        working, finished = population.chronicle().spans
        assert (working.key, working.numbers) == (SlotKey(0, 0, 0), (0, 1))
        assert (working.worker, working.finished_at) == ("somebody", None)
        assert (finished.key, finished.numbers) == (SlotKey(0, 0, 1), (2, 3))
        assert finished.finished_at is not None
        assert finished.claimed_at <= finished.finished_at
        assert working.claimed_at >= finished.claimed_at
        assert finished.lease_until is None
        assert working.lease_until is not None
        assert working.claimed_at <= population.chronicle().read_at <= working.lease_until

    def test_finished_spans_have_finished_individuals(self, population: Population) -> None:
        """Never a span from after and individuals from before."""
        plan = example_plan(0, n_individuals=16, cohort_size=4)
        population.commit_plan(plan)

        def finish_or_watch(number: int) -> None:
            if number:
                for _ in range(10):
                    told = population.chronicle()
                    ended = {one.reference.number for one in told.individuals if one.fitness}
                    for span in told.spans:
                        assert span.finished_at is None or set(span.numbers) <= ended
                return
            for slot in population.slots():
                claim = take(population, slot.key)
                population.finish(claim, [outcome(n) for n in slot.numbers])

        self.race(finish_or_watch)

    @pytest.mark.parametrize(
        "configuration", [example_configuration(n_generations=4, n_evolution_rounds=2)]
    )
    def test_every_ancestor_is_told(
        self, population: Population, configuration: Configuration
    ) -> None:
        """Also parents that never trained: with two rounds, offspring breed before they train."""
        run(population, configuration)
        told = population.chronicle().individuals
        known = {one.reference for one in told}
        assert {one.reference.generation for one in told} == {0, 1, 2, 3}
        assert all(parent in known for one in told for parent in one.parents)
