"""Transactions are run again as long as others are in the way, and no longer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from optuna_esgd.errors import ConfigurationError, StorageError, UnavailableError
from optuna_esgd.store import transactions
from optuna_esgd.store.engines import Database, open_database
from optuna_esgd.store.transactions import read, write
from tests.databases import MakeDatabase

_COUNTER = sa.table("esgd_counter", sa.column("name"), sa.column("value"))


@pytest.fixture
def database(database_url: str) -> Database:
    """With a table of two counters."""
    found = open_database(database_url)
    with found.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS esgd_counter")
        connection.exec_driver_sql(
            "CREATE TABLE esgd_counter (name VARCHAR(8) PRIMARY KEY, value INTEGER)"
        )
        connection.exec_driver_sql("INSERT INTO esgd_counter VALUES ('a', 0), ('b', 0)")
    return found


def _add(connection: sa.Connection, name: str) -> None:
    mine = _COUNTER.c.name == name
    connection.execute(sa.update(_COUNTER).where(mine).values(value=_COUNTER.c.value + 1))


def _value(connection: sa.Connection, name: str) -> int:
    query = sa.select(_COUNTER.c.value).where(_COUNTER.c.name == name)
    return int(connection.execute(query).scalar_one())


def test_nothing_is_lost_between_many_writers(database: Database) -> None:
    """Each reads before it writes, which a deferred transaction in SQLite does not survive."""

    def read_and_add(connection: sa.Connection) -> None:
        _value(connection, "a")
        _add(connection, "a")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: write(database, read_and_add), range(40)))
    assert read(database, _value, "a") == 40


def test_deadlock_is_run_again(database: Database) -> None:
    """Two transactions lock the same rows in opposite order; both end well."""
    barrier = threading.Barrier(2)
    n_runs = 0

    def lock_both(connection: sa.Connection, names: str) -> None:
        nonlocal n_runs
        n_runs += 1
        _add(connection, names[0])
        if n_runs <= 2 and database.kind != "sqlite":
            barrier.wait()
        _add(connection, names[1])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda names: write(database, lock_both, names), ("ab", "ba")))
    assert read(database, _value, "a") == read(database, _value, "b") == 2
    assert n_runs == (2 if database.kind == "sqlite" else 3)


def test_unique_violation_is_run_again(database: Database) -> None:
    """The second run finds the row that was in the way."""
    n_runs = 0

    def insert(connection: sa.Connection) -> int:
        nonlocal n_runs
        n_runs += 1
        if n_runs == 1:
            connection.execute(sa.insert(_COUNTER).values(name="a", value=7))
        return _value(connection, "a")

    assert write(database, insert) == 0
    assert n_runs == 2


def test_what_never_ends_well_is_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_LONGEST_PAUSE_SECONDS", 0.01)
    n_runs = 0

    def insert(connection: sa.Connection) -> None:
        nonlocal n_runs
        n_runs += 1
        connection.execute(sa.insert(_COUNTER).values(name="a", value=7))

    with pytest.raises(StorageError, match=f"after {transactions._MOST_CONFLICTS + 1} tries"):
        write(database, insert)
    assert n_runs == transactions._MOST_CONFLICTS + 1


def test_mistakes_are_not_run_again(database: Database) -> None:
    n_runs = 0

    def select(connection: sa.Connection) -> None:
        nonlocal n_runs
        n_runs += 1
        connection.exec_driver_sql("SELECT 1 FROM nowhere")

    with pytest.raises(StorageError, match="nowhere"):
        write(database, select)
    assert n_runs == 1


def test_our_own_errors_roll_back(database: Database) -> None:
    def add_and_refuse(connection: sa.Connection) -> None:
        _add(connection, "a")
        raise ConfigurationError("no")

    with pytest.raises(ConfigurationError):
        write(database, add_and_refuse)
    assert read(database, _value, "a") == 0


def test_reading_sees_one_snapshot(database: Database) -> None:
    """What others commit in between stays unseen."""

    def read_twice(connection: sa.Connection) -> tuple[int, int]:
        first = _value(connection, "a")
        with ThreadPoolExecutor(1) as thread:
            thread.submit(write, database, _add, "a").result()
        return first, _value(connection, "a")

    assert read(database, read_twice) == (0, 0)
    assert read(database, _value, "a") == 1


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_lost_connection_is_made_again(make_database: MakeDatabase, kind: str) -> None:
    """In the middle of a transaction: nothing of it was committed, so it is run again."""
    database = open_database(make_database(kind))
    n_runs = 0

    def lose(connection: sa.Connection) -> int:
        nonlocal n_runs
        n_runs += 1
        if n_runs == 1:
            _kill(database, connection)
        return int(connection.execute(sa.select(7)).scalar_one())

    write(database, lambda c: c.execute(sa.select(1)))
    assert write(database, lose) == 7
    assert n_runs == 2


def test_locked_file_is_waited_for(tmp_path: Path) -> None:
    """Another process writes for a while."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    write(database, lambda c: c.exec_driver_sql("CREATE TABLE esgd_counter (name, value)"))
    other = database.engine.raw_connection()
    other.cursor().execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.rollback)
    release.start()
    write(database, lambda c: c.exec_driver_sql("INSERT INTO esgd_counter VALUES ('a', 1)"))
    release.join()
    other.close()


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_server_that_stays_away_may_come_back(
    make_database: MakeDatabase, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_PATIENCE_SECONDS", 0.2)
    database = open_database(make_database(kind))

    def lose(connection: sa.Connection) -> int:
        _kill(database, connection)
        return int(connection.execute(sa.select(7)).scalar_one())

    with pytest.raises(UnavailableError, match=r"after [0-9]+ tries"):
        write(database, lose)


def test_an_address_where_nobody_answers_is_tried_once() -> None:
    database = open_database("postgresql://postgres@127.0.0.1:1/nowhere")
    with pytest.raises(UnavailableError, match=r"failed: .* Check the URL"):
        read(database, lambda _connection: None)


def test_a_file_that_is_no_database_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_text("a note")
    with pytest.raises(StorageError, match=r"not a database\. Check the file") as caught:
        read(open_database(f"sqlite:///{path}"), lambda c: c.execute(sa.select(1)))
    assert not isinstance(caught.value, UnavailableError)


def _kill(database: Database, connection: sa.Connection) -> None:
    is_postgresql = database.kind == "postgresql"
    own = "SELECT pg_backend_pid()" if is_postgresql else "SELECT connection_id()"
    number = connection.exec_driver_sql(own).scalar()
    kill = f"SELECT pg_terminate_backend({number})" if is_postgresql else f"KILL {number}"
    with database.engine.connect() as other:
        other.exec_driver_sql(kill)
