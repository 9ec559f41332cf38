"""Worker processes that start in milliseconds, and what tests do to them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import sqlalchemy as sa

from tests.faults import small_run
from tests.faults.failpoints import Points, counting

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.warm"])

KILLED = -signal.SIGKILL


def start(act: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Run a function of a module in a process of its own."""
    worker = CONTEXT.Process(target=act, args=arguments, daemon=True)
    worker.start()
    return worker


def work(url: str) -> None:
    """A worker that nothing happens to."""
    small_run.run(url)


def work_until(url: str, points: Points, deadly: int) -> None:
    """A worker that dies at one of its statements or commits."""
    with counting(points, deadly=deadly):
        small_run.run(url)




def send(worker: BaseProcess, number: signal.Signals) -> None:
    """A signal, to a process that is known to run."""
    assert worker.pid is not None
    os.kill(worker.pid, number)


def end(worker: BaseProcess, *, exitcode: int = 0) -> None:
    """Wait for a process, which must end like this."""
    worker.join(timeout=120)
    assert worker.exitcode == exitcode, worker


def expire_leases(url: str) -> None:
    """Let the time run out that killed and stopped workers have for their slots."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        if sa.inspect(connection).has_table("esgd_slot"):
            connection.exec_driver_sql(
                "UPDATE esgd_slot SET lease_until = 0 WHERE state = 'claimed'"
            )
