"""Workers that sleep past their leases, and wake up when others have done their work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

import optuna_esgd as esgd
from tests.faults.extent import sampled
from tests.faults.small_run import open_study, result, run
from tests.faults.workers import (
    CONTEXT,
    end,
    expire_leases,
    rows,
    start,
    work,
    work_with_a_break,
    work_with_a_break_before,
)


@pytest.mark.slow
def test_a_stopped_worker_writes_nothing_when_it_wakes_up(
    database_url: str, undisturbed: list[tuple[object, ...]]
) -> None:
    here, there = CONTEXT.Pipe()
    zombie = start(work_with_a_break, database_url, there)
    pid = here.recv()
    os.kill(pid, signal.SIGSTOP)
    expire_leases(database_url)
    end(start(work, database_url))
    before = rows(database_url)
    assert before["esgd_individual"]
    os.kill(pid, signal.SIGCONT)
    here.send(None)
    end(zombie)
    assert rows(database_url) == before
    assert result(open_study(database_url)) == undisturbed


def count_transactions(act: Callable[[str], object], url: str) -> int:
    """How many transactions an act begins."""
    n_transactions = 0

    def count(_connection: sa.Connection) -> None:
        nonlocal n_transactions
        n_transactions += 1

    sa.event.listen(sa.Engine, "begin", count)
    act(url)
    sa.event.remove(sa.Engine, "begin", count)
    return n_transactions


@pytest.mark.slow
def test_a_worker_may_sleep_between_any_two_transactions(
    tmp_path: Path,
    undisturbed: list[tuple[object, ...]],
    closed_connections: Callable[[], None],
) -> None:
    """It does what is left to do when it wakes up, and nobody sees a difference."""
    n_making_tables = count_transactions(esgd.create_storage, f"sqlite:///{tmp_path}/tables.db")
    n_transactions = count_transactions(run, f"sqlite:///{tmp_path}/counted.db")
    for point in sampled(n_transactions, 31):
        url = f"sqlite:///{tmp_path}/{point}.db"
        here, there = CONTEXT.Pipe()
        zombie = start(work_with_a_break_before, url, there, point)
        here.recv()
        expire_leases(url)
        worker = start(work, url)
        if point <= n_making_tables:  # tables are made by one process at a time
            worker.join(timeout=1)
            here.send(None)
            end(worker)
        else:
            end(worker)
            here.send(None)
        end(zombie)
        assert result(open_study(url)) == undisturbed, point
        closed_connections()
