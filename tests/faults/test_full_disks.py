"""A disk that runs full loses nothing; when there is room again, the run goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from optuna_esgd.errors import StorageError
from tests.faults.extent import sampled
from tests.faults.small_run import open_study, result, run
from tests.faults.workers import expire_leases

Rows = list[tuple[object, ...]]


@contextmanager
def at_most(n_pages: int) -> Iterator[None]:
    """Let SQLite files grow no further, those of Optuna's connections included."""

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {n_pages}").close()

    sa.event.listen(sa.pool.Pool, "connect", limit)
    yield
    sa.event.remove(sa.pool.Pool, "connect", limit)


def n_pages(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        (found,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()
    return int(found)


@pytest.mark.slow
def test_a_run_goes_on_when_there_is_room_again(
    tmp_path: Path, undisturbed: Rows, closed_connections: Callable[[], None]
) -> None:
    run(f"sqlite:///{tmp_path}/whole.db")
    study = open_study(f"sqlite:///{tmp_path}/empty.db")
    closed_connections()
    n_first, n_last = n_pages(tmp_path / "empty.db"), n_pages(tmp_path / "whole.db")
    assert study.study_name
    for page in sampled(n_last - n_first, 7):
        url = f"sqlite:///{tmp_path}/{page}.db"
        open_study(url)
        closed_connections()
        with at_most(n_first + page), pytest.raises(StorageError, match=r"full\. Nothing.*room"):
            run(url)
        closed_connections()
        expire_leases(url)
        run(url)
        assert result(open_study(url)) == undisturbed, page
        closed_connections()


def test_tables_that_do_not_fit_are_said_so(tmp_path: Path) -> None:
    with at_most(3), pytest.raises(StorageError, match="make room"):
        open_study(f"sqlite:///{tmp_path}/a.db")
