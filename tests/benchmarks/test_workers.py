"""Eight processes on one database: nothing is done twice, nobody is locked out."""

from __future__ import annotations

import pytest

from tests.benchmarks.workers import HEADER, measure

_N_WORKERS = 8


@pytest.mark.slow
def test_many_workers_share_a_database(database_url: str) -> None:
    load = measure(database_url, n_workers=_N_WORKERS, population_size=8, n_generations=2)
    assert load.mistakes == []
    assert load.n_slots == 2 * 16
    assert load.n_repeated == 0
    assert load.row().count("|") == HEADER.splitlines()[0].count("|")
    if load.database == "sqlite":
        assert load.n_retries == {}, "a file is waited for, it is never 'locked'"
    else:
        assert load.n_connections is not None
        assert load.n_connections <= 2 * _N_WORKERS
