"""Contract: unfinished work is kept for whoever goes on with it."""

from __future__ import annotations

import pytest

from optuna_esgd.engine.individual import SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import (
    LEASE_SECONDS,
    example_plan,
    example_snapshot,
    finish_generation,
    outcome,
    take,
)
from optuna_esgd.testing.weights import same

_FIRST = SlotKey(0, 0, 0)


class CheckpointContract(Contract):
    """Saving and reading checkpoints."""

    @pytest.mark.parametrize("n_bytes", [1000, 5 * 2**20])
    def test_checkpoint_comes_back(self, population: Population, n_bytes: int) -> None:
        """The latest one, to whoever has the slot next; not that of another slot."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        assert population.read_checkpoint(_FIRST) is None
        for epoch in (1, 2):
            state = example_snapshot((population.uuid, epoch), n_bytes)
            assert population.save_checkpoint(claim, state, lease_seconds=LEASE_SECONDS)
        assert population.release(claim)
        found = population.read_checkpoint(take(population, _FIRST).slot.key)
        assert found is not None
        same(found, example_snapshot((population.uuid, 2), n_bytes))
        assert population.read_checkpoint(SlotKey(0, 0, 1)) is None

    def test_lost_claims_save_nothing(self, population: Population) -> None:
        """What another attempt has saved stays."""
        population.commit_plan(example_plan(0))
        late = take(population, _FIRST)
        population.release(late)
        claim = take(population, _FIRST)
        mine = example_snapshot((population.uuid, "mine"))
        assert population.save_checkpoint(claim, mine, lease_seconds=LEASE_SECONDS)
        theirs = example_snapshot((population.uuid, "theirs"))
        assert not population.save_checkpoint(late, theirs, lease_seconds=LEASE_SECONDS)
        found = population.read_checkpoint(_FIRST)
        assert found is not None
        same(found, mine)

    def test_finished_slots_have_no_checkpoint(self, population: Population) -> None:
        """Its bytes go with the next collection, not before the slot is finished."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        state = example_snapshot((population.uuid, 1))
        population.save_checkpoint(claim, state, lease_seconds=LEASE_SECONDS)
        population.collect_garbage()
        assert population.read_checkpoint(_FIRST) is not None
        assert population.stored_bytes() == 1000
        assert population.finish(claim, [outcome(0), outcome(1)])
        assert population.read_checkpoint(_FIRST) is None
        population.collect_garbage()
        assert population.stored_bytes() == 0

    def test_saving_renews_the_lease(self, population: Population) -> None:
        """A worker that saves is alive."""
        finish_generation(population, 0)
        population.commit_plan(example_plan(1))
        key = SlotKey(1, 0, 0)
        claim = take(population, key, lease_seconds=self.short_lease_seconds)
        state = example_snapshot((population.uuid, 1))
        assert population.save_checkpoint(claim, state, lease_seconds=LEASE_SECONDS)
        again = population.claim(key, worker="other", lease_seconds=LEASE_SECONDS)
        assert again is None
