"""Contract: what is needed stays, what nobody needs goes, whoever is writing meanwhile."""

from __future__ import annotations

import pytest

from optuna_esgd.engine.individual import Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import WeightsNotFoundError
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import (
    example_plan,
    example_snapshot,
    finish_generation,
    outcome,
    take,
    weights_of,
)
from optuna_esgd.testing.weights import same


class CollectionContract(Contract):
    """Garbage collection and pins."""

    def test_latest_generations_the_best_and_pinned_ones_stay(
        self, population: Population
    ) -> None:
        """Everybody else's weights go, but their digests stay."""
        finish_generation(population, 0, fitness=(5.0, 1.0, 6.0, 7.0))
        finish_generation(population, 1, fitness=(5.0, 2.0, 6.0, 7.0))
        population.pin(Reference(0, 0, 3))
        finish_generation(population, 2, fitness=(5.0, 3.0, 6.0, 7.0))
        finish_generation(population, 3, fitness=(5.0, 4.0, 6.0, 7.0))
        assert population.stored_bytes() == 16 * 1000
        assert population.collect_garbage() == 6 * 1000
        kept = {one.reference for one in population.individuals() if one.is_stored}
        young = {Reference(generation, 0, n) for generation in (2, 3) for n in range(4)}
        assert kept == {Reference(0, 0, 1), Reference(0, 0, 3)} | young
        for reference in kept:
            same(population.read_weights(reference), weights_of(population, reference))
        with pytest.raises(WeightsNotFoundError, match=r"1\.0\.1.*collected"):
            population.read_weights(Reference(1, 0, 1))
        assert all(one.weights is not None for one in population.individuals())
        assert population.stored_bytes() == 10 * 1000
        assert population.collect_garbage() == 0

    def test_optimizer_states_of_the_latest_generations_stay(self, population: Population) -> None:
        """Also the best one's and a pinned one's go: nobody inherits from them any more."""
        for generation in range(3):
            finish_generation(population, generation, states=True)
        population.pin(Reference(0, 0, 2))
        population.collect_garbage()
        for generation, number in ((1, 0), (2, 3)):
            assert population.read_optimizer_state(Reference(generation, 0, number)) is not None
        assert population.read_optimizer_state(Reference(0, 0, 0)) is None
        assert population.read_optimizer_state(Reference(0, 0, 2)) is None
        assert population.read_weights(Reference(0, 0, 2)) is not None

    def test_pin_can_be_taken_back(self, population: Population) -> None:
        """Then the weights go with the next collection."""
        for generation in range(3):
            finish_generation(population, generation)
        population.pin(Reference(0, 0, 2))
        population.collect_garbage()
        assert population.read_weights(Reference(0, 0, 2)) is not None
        population.pin(Reference(0, 0, 2), pinned=False)
        assert population.collect_garbage() == 1000
        with pytest.raises(WeightsNotFoundError):
            population.read_weights(Reference(0, 0, 2))

    def test_nobody_cannot_be_pinned(self, population: Population) -> None:
        """The message says who was meant."""
        with pytest.raises(WeightsNotFoundError, match=r"3\.0\.7"):
            population.pin(Reference(3, 0, 7))

    def test_bytes_somebody_still_needs_stay(self, population: Population) -> None:
        """An elite's weights live on in its descendants."""
        shared = example_snapshot(population.uuid)
        for generation in range(4):
            population.commit_plan(example_plan(generation, n_individuals=2))
            claim = take(population, SlotKey(generation, 0, 0))
            other = weights_of(population, Reference(generation, 0, 1))
            ended = [outcome(0, 1.0, weights=shared), outcome(1, 2.0, weights=other)]
            assert population.finish(claim, ended)
        assert population.collect_garbage() == 2 * 1000
        same(population.read_weights(Reference(3, 0, 0)), shared)
        same(population.read_weights(Reference(0, 0, 0)), shared)
        with pytest.raises(WeightsNotFoundError):
            population.read_weights(Reference(1, 0, 0))

    def test_weights_outlive_an_offspring_that_was_best(self, population: Population) -> None:
        """Should the offspring not survive, the best trained one is best again."""
        finish_generation(population, 0, fitness=(1.0, 5.0, 6.0, 7.0))
        finish_generation(population, 1)
        finish_generation(population, 2)
        population.commit_plan(example_plan(2, round_=1))
        claim = take(population, SlotKey(2, 1, 0))
        population.finish(claim, [outcome(0, 0.5), outcome(1, 9.0)])
        population.collect_garbage()
        assert population.read_weights(Reference(0, 0, 0)) is not None

    def test_collecting_while_others_write_the_same_bytes(self, population: Population) -> None:
        """Whatever has ended can be read, though its bytes were garbage a moment ago."""
        shared = [example_snapshot((population.uuid, n), 3000) for n in range(3)]
        finish_generation(population, 0, fitness=(0.0, 1.0, 2.0, 3.0))
        n_workers = self.n_threads - 1
        population.commit_plan(example_plan(1, n_individuals=3 * n_workers, cohort_size=1))

        def write_or_collect(number: int) -> None:
            if number == n_workers:
                for generation in range(2, 8):
                    population.commit_plan(example_plan(generation))
                    population.collect_garbage()
                return
            for n in range(3):
                mine = 3 * number + n
                claim = take(population, SlotKey(1, 0, mine))
                assert population.finish(claim, [outcome(mine, 9.0, weights=shared[n])])

        self.race(write_or_collect)
        for one in population.individuals(generation=1):
            if one.is_stored:
                wanted = shared[one.reference.number % 3]
                same(population.read_weights(one.reference), wanted)
        population.collect_garbage()
        assert population.stored_bytes() == 1000
