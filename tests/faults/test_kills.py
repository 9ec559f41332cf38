"""A worker killed at any SQL statement leaves nothing that the next one does not finish.

What is in a database changes with commits only. So on SQLite workers are killed before every third
one, and on servers, which clear up behind them, at every 97th statement or commit.
OPTUNA_ESGD_TEST_ALL_FAULTS=1 kills at every statement and commit on every database; it takes most
of an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.databases import Databases
from tests.faults.extent import IS_EXHAUSTIVE, sampled
from tests.faults.failpoints import Points, counting
from tests.faults.small_run import (
    GENERATIONS,
    POPULATION,
    bits,
    check,
    open_study,
    result,
    run,
    run_worker,
)
from tests.faults.workers import (
    KILLED,
    end,
    expire_leases,
    serve,
    serve_until,
    start,
    work,
    work_until,
)

_PARTS = 4
_SQLITE_POINTS: Points = "all" if IS_EXHAUSTIVE else "commits"


def kill_and_finish(url: str, points: Points, deadly: int) -> list[tuple[object, ...]]:
    """One worker dies, another one does the rest."""
    end(start(work_until, url, points, deadly), exitcode=KILLED)
    expire_leases(url)
    end(start(work, url))
    return result(open_study(url))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_PARTS))
def test_killed_at_a_commit_of_sqlite(
    part: int,
    tmp_path: Path,
    undisturbed: list[tuple[object, ...]],
    closed_connections: Callable[[], None],
) -> None:
    with counting(_SQLITE_POINTS) as counter:
        run(f"sqlite:///{tmp_path}/counted.db")
    for point in sampled(counter.n_points, 3)[part::_PARTS]:
        url = f"sqlite:///{tmp_path}/{point}.db"
        assert kill_and_finish(url, _SQLITE_POINTS, point) == undisturbed, point
        closed_connections()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_PARTS))
@pytest.mark.parametrize("writes_behind", [False, True])
def test_a_worker_killed_at_a_commit_of_sqlite(
    part: int,
    writes_behind: bool,
    tmp_path: Path,
    undisturbed: list[tuple[object, ...]],
    closed_connections: Callable[[], None],
) -> None:
    """It finishes a slot, stores the next plan and claims a slot at once, or nothing of it."""
    with counting(_SQLITE_POINTS) as counter:
        run_worker(f"sqlite:///{tmp_path}/counted.db", writes_behind=writes_behind)
    for point in sampled(counter.n_points, 2)[part::_PARTS]:
        url = f"sqlite:///{tmp_path}/{point}.db"
        worker = start(serve_until, url, _SQLITE_POINTS, point, writes_behind)
        end(worker, exitcode=KILLED)
        expire_leases(url)
        end(start(work, url))
        assert result(open_study(url)) == undisturbed, point
        closed_connections()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_PARTS))
@pytest.mark.parametrize("writes_behind", [False, True])
def test_a_worker_without_a_barrier_killed_at_a_commit_of_sqlite(
    part: int, writes_behind: bool, tmp_path: Path, closed_connections: Callable[[], None]
) -> None:
    """Every slot leads to a plan for its places, stored with it; nobody else need do it."""
    with counting(_SQLITE_POINTS) as counter:
        url = f"sqlite:///{tmp_path}/counted.db"
        run_worker(url, writes_behind=writes_behind, asynchronous=True)
    for point in sampled(counter.n_points, 2)[part::_PARTS]:
        url = f"sqlite:///{tmp_path}/{point}.db"
        worker = start(serve_until, url, _SQLITE_POINTS, point, writes_behind, True)
        end(worker, exitcode=KILLED)
        expire_leases(url)
        end(start(serve, url, writes_behind, True))
        population = check(open_study(url, asynchronous=True))
        assert len(bits(population)) == POPULATION * GENERATIONS * 2, point
        assert all(slot.state == "finished" for slot in population.slots()), point
        closed_connections()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_killed_at_a_statement_on_a_server(
    kind: str,
    databases: Databases,
    undisturbed: list[tuple[object, ...]],
    closed_connections: Callable[[], None],
) -> None:
    server = databases.server(kind)
    url = server.make()
    with counting() as counter:
        run(url)
    for point in sampled(counter.n_points, 97):
        closed_connections()
        server.give_back(url)
        assert server.make() == url
        assert kill_and_finish(url, "all", point) == undisturbed, point
    closed_connections()
    server.give_back(url)
