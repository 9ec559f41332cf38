"""A claim lives as long as its work goes on, and no longer."""

from __future__ import annotations

import threading
import time

import pytest

from optuna_esgd.engine.individual import Claim, SlotKey
from optuna_esgd.errors import StorageError
from optuna_esgd.store import lease
from optuna_esgd.store.lease import keep_lease
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.testing.examples import example_plan, take

_LEASE_SECONDS = 0.5


def _claimed(population: MemoryPopulation) -> Claim:
    population.commit_plan(example_plan(0))
    return take(population, SlotKey(0, 0, 0), lease_seconds=_LEASE_SECONDS)


def test_lease_lives_while_the_block_runs() -> None:
    population = MemoryPopulation({})
    claim = _claimed(population)
    with keep_lease(population, claim, _LEASE_SECONDS):
        time.sleep(2 * _LEASE_SECONDS)
        assert not population.slots()[0].is_claimable
    time.sleep(2 * _LEASE_SECONDS)
    assert population.slots()[0].is_claimable


def test_lost_lease_is_left_alone() -> None:
    population = MemoryPopulation({})
    claim = _claimed(population)
    population.release(claim)
    with keep_lease(population, claim, _LEASE_SECONDS):
        time.sleep(_LEASE_SECONDS)
    assert population.slots()[0].is_claimable


@pytest.mark.parametrize("error", [StorageError("gone"), RuntimeError("can't start new thread")])
def test_database_may_be_away_for_a_while(error: Exception) -> None:
    class Unreachable(MemoryPopulation):
        n_renewals = 0

        def renew(self, claim: Claim, *, lease_seconds: float) -> bool:
            self.n_renewals += 1
            if self.n_renewals == 1:
                raise error
            return super().renew(claim, lease_seconds=lease_seconds)

    population = Unreachable({})
    with keep_lease(population, _claimed(population), _LEASE_SECONDS):
        time.sleep(2 * _LEASE_SECONDS)
        assert not population.slots()[0].is_claimable
    assert population.n_renewals >= 2


def test_leases_that_end_soon_share_a_thread() -> None:
    population = MemoryPopulation({})
    claim = _claimed(population)

    def keepers() -> set[threading.Thread]:
        """Not the threads that other tests have left behind."""
        return {one for one in threading.enumerate() if one.name == "esgd-lease"}

    before, threads = keepers(), set[threading.Thread]()
    for _ in range(20):
        with keep_lease(population, claim, 3600.0):  # a machine that stands still wakes nobody
            threads |= keepers() - before
    assert len(threads) == 1


def test_a_lease_that_ends_at_once_leaves_its_thread_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where threads wait long for their first turn."""
    run = lease._Keeper._run

    def run_late(self: lease._Keeper) -> None:
        time.sleep(0.05)
        run(self)

    monkeypatch.setattr(lease._Keeper, "_run", run_late)
    population = MemoryPopulation({})
    claim = _claimed(population)
    threads = set()
    for _ in range(2):
        with keep_lease(population, claim, 3600.0):
            threads.add(lease._keepers[population]._thread)
        time.sleep(0.1)
    assert len(threads) == 1


def test_a_short_lease_is_kept_beside_a_long_one() -> None:
    population = MemoryPopulation({})
    claim = _claimed(population)
    other = take(population, SlotKey(0, 0, 1), lease_seconds=60.0)
    with keep_lease(population, other, 60.0), keep_lease(population, claim, _LEASE_SECONDS):
        time.sleep(2 * _LEASE_SECONDS)
        assert not population.slots()[0].is_claimable


def test_nothing_is_renewed_after_the_block() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MemoryPopulation):
        n_renewals = 0

        def renew(self, claim: Claim, *, lease_seconds: float) -> bool:
            begun.set()
            assert go_on.wait(10)
            time.sleep(0.1)
            self.n_renewals += 1
            return super().renew(claim, lease_seconds=lease_seconds)

    population = Slow({})
    with keep_lease(population, _claimed(population), _LEASE_SECONDS):
        assert begun.wait(10)
        go_on.set()
    n_renewals = population.n_renewals
    assert n_renewals == 1, "the block's end waited for it"
    time.sleep(_LEASE_SECONDS)
    assert population.n_renewals == n_renewals
