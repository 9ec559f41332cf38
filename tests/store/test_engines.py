"""URLs, drivers, pragmas; and what no message may say."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from optuna_esgd.errors import EsgdError, StorageError
from optuna_esgd.store import engines, schema
from optuna_esgd.store.artifacts import SqlArtifactStore
from optuna_esgd.store.engines import close_databases, open_database, parse_url
from optuna_esgd.store.storages import create_storage
from optuna_esgd.store.transactions import read, redact, write
from tests.databases import MakeDatabase
from tests.store.populations import make_population
from tests.store.studies import open_small, start

_SECRET = "s3cr%40t/p w"


class TestUrls:
    @pytest.mark.parametrize(
        "url", ["oracle://host/db", "mssql+pyodbc://host/db", "redis://host", "journal.log", ""]
    )
    def test_other_kinds_are_refused(self, url: str) -> None:
        with pytest.raises(StorageError, match=r"sqlite:///file\.db.*postgresql.*mysql"):
            open_database(url)

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
    def test_memory_cannot_be_shared(self, url: str) -> None:
        with pytest.raises(StorageError, match="name a file"):
            open_database(url)

    def test_sqlite_has_no_host(self) -> None:
        with pytest.raises(StorageError, match="three slashes") as caught:
            open_database(f"sqlite://user:{_SECRET}@host/file.db")
        assert _SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "installed", "expected"),
        [
            ("postgresql://h/d", {"psycopg", "psycopg2"}, "postgresql+psycopg"),
            ("postgresql://h/d", {"psycopg2"}, "postgresql+psycopg2"),
            ("postgresql+psycopg2://h/d", {"psycopg"}, "postgresql+psycopg2"),
            ("mysql://h/d", {"MySQLdb", "mariadb", "pymysql"}, "mysql+mysqldb"),
            ("mysql://h/d", {"mariadb", "pymysql"}, "mysql+mariadbconnector"),
            ("mysql://h/d", {"pymysql"}, "mysql+pymysql"),
            ("mariadb://h/d", {"pymysql"}, "mariadb+pymysql"),
            ("mysql+pymysql://h/d", {"MySQLdb"}, "mysql+pymysql"),
        ],
    )
    def test_driver_is_chosen_from_those_installed(
        self, url: str, installed: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def find_spec(name: str) -> object:
            return object() if name in installed else None

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        assert parse_url(url).drivername == expected

    def test_no_driver_is_said_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(StorageError, match=r"pip install 'optuna_esgd\[mysql\]'"):
            parse_url("mysql://h/d")

    def test_named_driver_that_is_missing_is_said_so(self) -> None:
        with pytest.raises(StorageError, match="pg8000"):
            schema.read_version(open_database("postgresql+pg8000://host/db"))


class TestSqlite:
    def test_new_file_has_large_pages_and_a_write_ahead_log(self, tmp_path: Path) -> None:
        study = optuna.create_study(storage=create_storage(f"sqlite:///{tmp_path / 'a.db'}"))
        open_small(study)
        close_databases()
        with sqlite3.connect(tmp_path / "a.db") as connection:
            assert connection.execute("PRAGMA page_size").fetchone() == (65536,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        assert {"esgd_chunk", "studies"} <= tables
        connection.close()

    def test_connections_are_set_up(self, tmp_path: Path) -> None:
        database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
        expected = {
            "busy_timeout": 60_000,
            "foreign_keys": 1,
            "synchronous": 1,
            "secure_delete": 0,
            "journal_mode": "wal",
        }
        for name, value in expected.items():
            found = read(database, lambda c, name=name: c.exec_driver_sql(f"PRAGMA {name}").all())
            assert found[0][0] == value, name

    def test_file_deleted_and_made_again_is_another_database(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'a.db'}"
        first = make_population(url, {})
        for file in tmp_path.iterdir():
            file.unlink()
        assert open_database(url) is not first.database
        schema.ensure_schema(open_database(url))
        assert (
            read(
                open_database(url),
                lambda c: c.exec_driver_sql("SELECT count(*) FROM esgd_study").scalar(),
            )
            == 0
        )

    def test_folder_that_does_not_exist_is_said_so(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="folder exists"):
            open_database(f"sqlite:///{tmp_path / 'nowhere' / 'a.db'}")

    def test_file_of_another_kind_is_said_so(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").write_bytes(b"no database at all, but long enough to be one" * 100)
        with pytest.raises(StorageError, match="not a database"):
            schema.ensure_schema(open_database(f"sqlite:///{tmp_path / 'a.db'}"))

    def test_read_only_file_can_be_read(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'a.db'}"
        population = make_population(url, {})
        start(population)
        close_databases()
        (tmp_path / "a.db").chmod(0o444)
        assert len(population.individuals()) == 4

    def test_names_with_odd_characters(self, tmp_path: Path) -> None:
        url = sa.URL.create("sqlite", database=str(tmp_path / "ä 100%?.db"))
        population = make_population(url, {})
        start(population)
        assert (tmp_path / "ä 100%?.db").exists()


class TestPasswords:
    """Nowhere: not in messages, not in what they were raised from, not in representations."""

    @pytest.mark.parametrize("place", ["postgresql", "mysql+pymysql", "mysql+mysqldb"])
    def test_unreachable_server(self, place: str) -> None:
        if place.endswith("mysqldb"):
            pytest.importorskip("MySQLdb")
        url = sa.URL.create(
            place, "ada", _SECRET, "127.0.0.1", 1, "db", query={}
        ).render_as_string(hide_password=False)
        database = open_database(url)
        for act in (
            lambda: schema.ensure_schema(database),
            lambda: schema.create_schema(database),
            lambda: create_storage(url),
            lambda: SqlArtifactStore(url),
        ):
            with pytest.raises(StorageError, match="Check the URL") as caught:
                act()
            _has_no_secret("".join(traceback.format_exception(caught.value)))
        _has_no_secret(f"{database} {database!r}")

    def test_nothing_is_logged_or_stored(
        self, make_database: MakeDatabase, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server that trusts everybody does not look at the password; we must not keep it."""
        url = sa.make_url(make_database("postgresql")).set(password=_SECRET)
        text = url.render_as_string(hide_password=False)
        caplog.set_level(logging.DEBUG, logger="optuna_esgd")
        study = optuna.create_study(storage=create_storage(text))
        population = open_small(study, store=text)
        start(population)
        database = open_database(text)
        engines.close_databases()
        write(database, _fail_once())
        _has_no_secret(caplog.text)
        _has_no_secret(f"{population!r} {database!r} {database.engine!r}")
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        tables = sa.MetaData()
        tables.reflect(engine)
        with engine.connect() as connection:
            for table in tables.sorted_tables:
                _has_no_secret(repr(connection.execute(sa.select(table)).all()))

    def test_url_that_cannot_be_read(self) -> None:
        with pytest.raises(StorageError) as caught:
            open_database(f"postgresql://ada:{_SECRET}@host:port:7/db")
        _has_no_secret("".join(traceback.format_exception(caught.value)))

    def test_statements_that_fail(self, make_database: MakeDatabase) -> None:
        url = sa.make_url(make_database("mysql")).set(query={"read_timeout": "30"})
        database = open_database(url)
        with pytest.raises(StorageError) as caught:
            write(database, lambda c: c.execute(sa.text("SELECT :x FROM nowhere"), {"x": _SECRET}))
        _has_no_secret("".join(traceback.format_exception(caught.value)))

    def test_redaction_finds_every_form(self) -> None:
        url = sa.make_url("postgresql://h/d?sslpassword=hunter2&sslkey=k3y").set(password="a b/c")
        text = "a b/c a%20b%2Fc a+b%2Fc hunter2 k3y host"
        assert redact(text, url) == "*** *** *** *** *** host"


class TestForks:
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_child_uses_connections_of_its_own(self, database_url: str, databases: object) -> None:
        """And leaves the parent's alone."""
        population = make_population(database_url, {})
        start(population)
        child = multiprocessing.get_context("fork").Process(target=_read_all, args=(population,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert len(population.individuals()) == 4

    def test_same_url_is_the_same_database(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'a.db'}"
        assert open_database(url) is open_database(url)
        assert len(engines._databases) == 1


def _read_all(population: object) -> None:
    population.read_weights(population.individuals()[0].reference)  # type: ignore[attr-defined]
    os._exit(0)


def _fail_once() -> Callable[[sa.Connection], None]:
    """The body of a transaction that is run again, which is logged."""
    errors = iter([sa.exc.DBAPIError(None, None, Exception(_SECRET))])  # type: ignore[arg-type]

    def body(_connection: sa.Connection) -> None:
        for error in errors:
            raise error

    return body


def _has_no_secret(text: str) -> None:
    for form in (_SECRET, "s3cr", "s3cr%2540t"):
        assert form not in text


def test_every_error_is_one_of_ours(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(EsgdError, match="no such table"):
        write(database, lambda c: c.exec_driver_sql("SELECT * FROM nowhere"))


@pytest.mark.parametrize(
    ("driver", "better"),
    [
        ("postgresql+psycopg2", "postgresql+psycopg://"),
        ("mysql+pymysql", "mysql+mariadbconnector://"),
        ("postgresql+psycopg", None),
    ],
)
def test_who_sends_weights_as_text_is_told_of_a_faster_driver(
    driver: str, better: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(driver.partition("+")[2])
    database = open_database(f"{driver}://ada:s3cret@127.0.0.1:1/db")
    with caplog.at_level(logging.WARNING, logger="optuna_esgd"):
        assert database.engine is database.engine
    database.close()
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == (better is not None)
    assert all(str(better) in text and "s3cret" not in text for text in warnings)


def test_a_file_that_another_process_makes_just_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that change to a write-ahead log together, SQLite lets one fail without waiting."""
    connect, n_failures = sqlite3.connect, 0

    def fail_first(*arguments: Any, **options: Any) -> sqlite3.Connection:
        nonlocal n_failures
        if not n_failures:
            n_failures += 1
            raise sqlite3.OperationalError("database is locked")
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", fail_first)
    path = tmp_path / "new.db"
    engines.prepare_sqlite_file(path)
    assert path.stat().st_size > 0
    assert n_failures == 1


def test_a_file_that_is_locked_for_good_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_esgd.store.engines._SQLITE_TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "new.db"
    maker = sqlite3.connect(path, isolation_level=None)
    maker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="locked"):
        engines.prepare_sqlite_file(path)
    maker.close()
