"""Worker processes that start in milliseconds, and what tests do to them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import sqlalchemy as sa

from optuna_esgd.trainer.task import Epoch
from tests.faults.failpoints import Points, counting
from tests.faults.small_run import Parabola, run, run_worker

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.warm"])

KILLED = -signal.SIGKILL


def start(act: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Run a function of a module in a process of its own."""
    worker = CONTEXT.Process(target=act, args=arguments, daemon=True)
    worker.start()
    return worker


def end(worker: BaseProcess, *, exitcode: int = 0) -> None:
    """Wait for a process, which must end like this."""
    worker.join(timeout=120)
    assert worker.exitcode == exitcode, worker


def work(url: str) -> None:
    """A worker that nothing happens to."""
    run(url)


def work_until(url: str, points: Points, deadly: int) -> None:
    """A worker that dies at one of its statements or commits."""
    with counting(points, deadly=deadly):
        run(url)


def serve(url: str, writes_behind: bool, asynchronous: bool) -> None:
    """A worker that makes trials for what it has finished."""
    run_worker(url, writes_behind=writes_behind, asynchronous=asynchronous)


def serve_until(
    url: str, points: Points, deadly: int, writes_behind: bool, asynchronous: bool = False
) -> None:
    """As ``serve``; it dies at one of its statements or commits."""
    with counting(points, deadly=deadly):
        serve(url, writes_behind, asynchronous)


def work_with_a_break(url: str, pipe: Connection) -> None:
    """A worker that says when it is in the middle of its first training, and waits there."""
    breaks = iter([pipe])

    def take_break(_epoch: Epoch) -> None:
        for one in breaks:
            pause(one)

    run(url, task=Parabola(take_break))


def work_with_a_break_before(url: str, pipe: Connection, transaction: int) -> None:
    """A worker that waits before its n-th transaction, from 0."""
    n_transactions = 0

    def begin(_connection: sa.Connection) -> None:
        nonlocal n_transactions
        if n_transactions == transaction:
            pause(pipe)
        n_transactions += 1

    sa.event.listen(sa.Engine, "begin", begin, insert=True)
    run(url)


def pause(pipe: Connection) -> None:
    """Say so, and wait for an answer."""
    pipe.send(os.getpid())
    pipe.recv()


def expire_leases(url: str) -> None:
    """Let the time run out that killed and stopped workers have for their slots."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        if sa.inspect(connection).has_table("esgd_slot"):
            connection.exec_driver_sql(
                "UPDATE esgd_slot SET lease_until = 0 WHERE state = 'claimed'"
            )


def rows(url: str) -> dict[str, list[sa.Row[Any]]]:
    """All that is in our tables."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    tables = sa.MetaData()
    tables.reflect(engine, only=lambda name, _: name.startswith("esgd_"))
    with engine.connect() as connection:
        return {
            table.name: sorted(connection.execute(sa.select(table)).all(), key=repr)
            for table in tables.sorted_tables
        }
