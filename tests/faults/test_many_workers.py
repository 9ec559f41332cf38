"""Several workers at once, killed at random and replaced."""

from __future__ import annotations

import random

import pytest

from tests.faults.small_run import open_study, result
from tests.faults.workers import KILLED, end, expire_leases, start, work, work_until

_N_WORKERS, _N_DEATHS = 3, 9


@pytest.mark.slow
def test_killed_and_replaced_workers_make_the_same_bits(
    database_url: str, undisturbed: list[tuple[object, ...]]
) -> None:
    """Every death lets all leases run out, also those of workers that go on."""
    lot = random.Random(database_url[:5])
    deaths = [lot.randrange(30, 400) for _ in range(_N_DEATHS)]
    workers = [start(work_until, database_url, "all", deaths.pop()) for _ in range(_N_WORKERS)]
    while workers:
        worker = workers.pop(0)
        worker.join(timeout=120)
        assert worker.exitcode in (0, KILLED)
        expire_leases(database_url)
        if deaths:
            workers.append(start(work_until, database_url, "all", deaths.pop()))
    expire_leases(database_url)
    end(start(work, database_url))
    assert result(open_study(database_url)) == undisturbed
