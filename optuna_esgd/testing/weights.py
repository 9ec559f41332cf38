"""Contract: weights come back as they went, or not at all."""

from __future__ import annotations

import pytest

from optuna_esgd.engine.individual import Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.errors import ConfigurationError, CorruptionError, WeightsNotFoundError
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import (
    example_plan,
    example_snapshot,
    finish_generation,
    outcome,
    take,
    weights_of,
)

_FIRST = SlotKey(0, 0, 0)
_MIB = 2**20


class WeightContract(Contract):
    """Snapshots: whole, checked, and stored once."""

    @pytest.mark.parametrize("n_bytes", [0, 1, _MIB - 1, _MIB, _MIB + 1, 3 * _MIB + 5])
    def test_weights_come_back(self, population: Population, n_bytes: int) -> None:
        """Of any size; the manifest as well."""
        finish_one(population, weights=weights_of(population, Reference(0, 0, 0), n_bytes))
        expected = weights_of(population, Reference(0, 0, 0), n_bytes)
        same(population.read_weights(Reference(0, 0, 0)), expected)
        assert population.stored_bytes() == n_bytes
        assert population.individuals()[0].is_stored

    def test_optimizer_state_comes_back(self, population: Population) -> None:
        """None where there is none, or nobody."""
        state = weights_of(population, Reference(9, 9, 9))
        finish_one(population, optimizer_state=state)
        found = population.read_optimizer_state(Reference(0, 0, 0))
        assert found is not None
        same(found, state)
        assert population.read_optimizer_state(Reference(0, 0, 1)) is None
        assert population.read_optimizer_state(Reference(5, 0, 0)) is None

    def test_missing_weights_are_an_error(self, population: Population) -> None:
        """The message says who, and why."""
        finish_one(population)
        with pytest.raises(WeightsNotFoundError, match=r"0\.0\.0"):
            population.read_weights(Reference(0, 0, 0))
        with pytest.raises(WeightsNotFoundError, match=r"0\.0\.2.*yet"):
            population.read_weights(Reference(0, 0, 2))
        with pytest.raises(WeightsNotFoundError, match=r"no individual 4\.0\.0"):
            population.read_weights(Reference(4, 0, 0))

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_payload_is_copied(self, population: Population, kind: type[bytes]) -> None:
        """The caller's memory is its own again when ``finish`` returns."""
        original = weights_of(population, Reference(0, 0, 0))
        mine = bytearray(original.payload)
        finish_one(population, weights=Snapshot(original.manifest, kind(mine)))
        mine[:] = bytes(len(mine))
        same(population.read_weights(Reference(0, 0, 0)), original)

    def test_same_bytes_are_stored_once(self, population: Population) -> None:
        """An unchanged elite costs nothing; equal snapshots have equal digests."""
        n_bytes = 2 * _MIB + 1
        shared = example_snapshot(population.uuid, n_bytes)
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        ended = [outcome(n, weights=shared, optimizer_state=shared) for n in (0, 1)]
        assert population.finish(claim, ended)
        one, other, *_ = population.individuals()
        assert one.weights == other.weights
        assert one.weights is not None
        assert len(one.weights) == 32
        assert population.stored_bytes() == n_bytes

    def test_repeated_chunks_are_stored_once(self, population: Population) -> None:
        """Zeros, mostly."""
        manifest = example_snapshot("zeros", 4 * _MIB).manifest
        finish_one(population, weights=Snapshot(manifest, bytes(4 * _MIB)))
        assert population.stored_bytes() == _MIB
        assert population.read_weights(Reference(0, 0, 0)).payload == bytes(4 * _MIB)

    def test_manifest_must_describe_the_payload(self, population: Population) -> None:
        """Checked before anything is stored; the claim still stands."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        good = example_snapshot("any", 100)
        for bad in (Snapshot(good.manifest, b"short"), Snapshot(b"not json", good.payload)):
            with pytest.raises(ConfigurationError, match="manifest"):
                population.finish(claim, [outcome(0, weights=bad), outcome(1)])
        assert population.finish(claim, [outcome(0, weights=good), outcome(1)])

    def test_damage_is_found_and_named(self, population: Population) -> None:
        """Chunk and individual; whoever does not need the chunk is not affected."""
        finish_generation(population, 0, n_bytes=_MIB + 10)
        self.corrupt(population, Reference(0, 0, 1))
        with pytest.raises(CorruptionError, match=r"(?i)chunk [0-9a-f]{32}.*0\.0\.1"):
            population.read_weights(Reference(0, 0, 1))
        for number in (0, 2, 3):
            reference = Reference(0, 0, number)
            expected = weights_of(population, reference, _MIB + 10)
            same(population.read_weights(reference), expected)

    def test_many_workers_store_the_same_bytes(self, population: Population) -> None:
        """At the same time, in different slots: nobody fails, and it is stored once."""
        n = self.n_threads
        population.commit_plan(example_plan(0, n_individuals=n, cohort_size=1))
        shared = example_snapshot(population.uuid, _MIB + 5)

        def finish(number: int) -> bool:
            claim = take(population, SlotKey(0, 0, number))
            return population.finish(claim, [outcome(number, weights=shared)])

        assert all(self.race(finish))
        assert population.stored_bytes() == _MIB + 5
        for number in range(n):
            same(population.read_weights(Reference(0, 0, number)), shared)


def finish_one(
    population: Population,
    *,
    weights: Snapshot | None = None,
    optimizer_state: Snapshot | None = None,
) -> None:
    """Finish the first slot; individual 0 ends with these."""
    population.commit_plan(example_plan(0))
    claim = take(population, _FIRST)
    mine = outcome(0, weights=weights, optimizer_state=optimizer_state)
    assert population.finish(claim, [mine, outcome(1)])


def same(found: Snapshot, expected: Snapshot) -> None:
    """Both have the same bytes, whatever they are kept in."""
    assert bytes(found.manifest) == bytes(expected.manifest)
    assert bytes(found.payload) == bytes(expected.payload)
