"""From URLs to databases: drivers, pools, pragmas; one engine per database and process."""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import sqlalchemy as sa

from optuna_esgd.errors import StorageError
from optuna_esgd.store.log_merging import MOST_LOG_BYTES, LogMerger

_logger = logging.getLogger(__name__)

DatabaseKind = Literal["sqlite", "postgresql", "mysql"]

SQLITE_PAGE_BYTES = 65536
_SQLITE_PAUSE_SECONDS = 0.01
_SQLITE_TIMEOUT_SECONDS = 60.0
# A worker that stops in the middle of a transaction, or whose machine goes dark, must not keep the
# others from its rows for ever: the server ends the transaction.
_IDLE_TRANSACTION_SECONDS = 60
_IDLE_SECONDS = 600
_PING_AFTER_SECONDS = 5.0
# Option of a connection that is going to write; see ``_begin_sqlite``.
WRITES = "esgd_writes"

_DRIVERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    # (SQLAlchemy's name, module), best first where the URL leaves it open
    "postgresql": (("psycopg", "psycopg"), ("psycopg2", "psycopg2")),
    "mysql": (
        ("mysqldb", "MySQLdb"),
        ("mariadbconnector", "mariadb"),
        ("pymysql", "pymysql"),
    ),
}
# Drivers that send every byte as text, with those that do not (measured: 2 to 6 times faster).
_SLOW_DRIVERS: Mapping[str, tuple[str, str]] = {
    "psycopg2": ("psycopg", "postgresql+psycopg"),
    "pymysql": ("'mariadb<2'", "mysql+mariadbconnector"),  # 2.0rc2 is Python, and slower yet
    "mysqldb": ("'mariadb<2'", "mysql+mariadbconnector"),
}
_SUPPORTED = (
    "sqlite:///file.db, postgresql://user@host/database (psycopg or psycopg2), "
    "mysql://user@host/database (mysqlclient, mariadb or pymysql; MariaDB as well)"
)
_PRAGMAS = (
    f"busy_timeout = {int(_SQLITE_TIMEOUT_SECONDS * 1000)}",
    "foreign_keys = ON",
    "synchronous = NORMAL",
    "secure_delete = OFF",  # ON in Debian: overwrites collected weights with zeros
    f"mmap_size = {2**30}",
    f"cache_size = {-(2**15)}",  # kB; holds a transaction of 16 MB without spilling
    f"journal_size_limit = {2**26}",
)


class Database:
    """One database as seen from this process; its engine is made when first used.

    Args:
        url: With driver and password.
        connect_args: Passed to the driver.
    """

    def __init__(self, url: sa.URL, connect_args: Mapping[str, Any]) -> None:
        self.url = url
        self.kind: DatabaseKind = _kind(url)
        self.was_reached = False
        self._connect_args = dict(connect_args)
        self._merger = LogMerger(sqlite_path(url)) if self.kind == "sqlite" else None
        self._engine: sa.Engine | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process."""
        with self._lock:
            if self._engine is None:
                make = _sqlite_engine if self.kind == "sqlite" else _server_engine
                try:
                    self._engine = make(self.url, self._connect_args)
                except ImportError as error:
                    raise StorageError(
                        f"The driver {self.url.get_driver_name()!r} for {self} is not installed: "
                        f"{error}. Install it, or leave it out of the URL."
                    ) from None
            return self._engine

    def merge_log(self) -> None:
        """After a commit: have SQLite's log merged into the file if it is long; does not wait."""
        if self._merger is not None:
            self._merger.wake()

    def wait_for_log(self) -> None:
        """Return when SQLite's log is not being merged."""
        if self._merger is not None:
            self._merger.wait()

    def close(self) -> None:
        """Close the connections that are not in use; the next use opens new ones."""
        self.wait_for_log()
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def abandon(self) -> None:
        """In a forked child: leave the parent's connections alone, and unclosed."""
        if self._engine is not None:
            _inherited.append(self._engine)
        self._engine = None
        self._lock = threading.Lock()
        if self._merger is not None:
            self._merger = LogMerger(sqlite_path(self.url))

    def __str__(self) -> str:
        return describe(self.url)


_databases: dict[tuple[object, ...], Database] = {}
_databases_lock = threading.Lock()
_inherited: list[sa.Engine] = []


def open_database(
    url: str | sa.URL, *, connect_args: Mapping[str, Any] | None = None, create: bool = True
) -> Database:
    """The database at a URL; the same object for the same URL.

    Args:
        url: See ``parse_url``.
        connect_args: Passed to the driver, e.g. certificates.
        create: Whether a SQLite file may be made.

    Raises:
        StorageError: The URL is of no supported kind, or the file cannot be made.
    """
    parsed = parse_url(url)
    arguments = dict(connect_args or {})
    identity: tuple[object, ...] = ()
    if _kind(parsed) == "sqlite":
        path = sqlite_path(parsed)
        if create:
            prepare_sqlite_file(path)
        elif not path.exists():
            raise StorageError(f"There is no database file {path}. Check the URL.")
        parsed = parsed.set(database=str(path), query={})
        file = path.stat()
        # A file that was deleted and made again is another database at the same place.
        identity = (file.st_dev, file.st_ino)
    key = (parsed.render_as_string(hide_password=False), repr(sorted(arguments.items())))
    with _databases_lock:
        for old in [old for old in _databases if old[:2] == key and old[2:] != identity]:
            _databases.pop(old).close()
        return _databases.setdefault((*key, *identity), Database(parsed, arguments))


def close_databases() -> None:
    """Close what this process has open and is not using; e.g. at its end, or before a fork."""
    with _databases_lock:
        for database in _databases.values():
            database.close()
        _databases.clear()


def parse_url(url: str | sa.URL) -> sa.URL:
    """Read a URL and choose the driver where it names none.

    Raises:
        StorageError: Says what is supported. Never shows a password.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StorageError(
            f"The storage URL cannot be read; supported are {_SUPPORTED}."
        ) from None
    kind = _kind(parsed)
    if kind == "sqlite":
        if parsed.host or parsed.password:
            raise StorageError(
                "A SQLite URL names a file, not a host: sqlite:///file.db, with three slashes."
            )
        return parsed.set(drivername="sqlite")
    backend, _, driver = parsed.drivername.partition("+")
    if driver:
        return parsed
    for name, module in _DRIVERS[kind]:
        if importlib.util.find_spec(module) is not None:
            return parsed.set(drivername=f"{backend}+{name}")
    extra = "postgresql" if kind == "postgresql" else "mysql"
    raise StorageError(
        f"No driver for {describe(parsed)} is installed; supported are "
        f"{', '.join(module for _, module in _DRIVERS[kind])}. Install one with "
        f"`pip install 'optuna_esgd[{extra}]'`."
    )


def describe(url: sa.URL) -> str:
    """A URL for messages and logs, without user, password and options."""
    place = url.host or ""
    if url.port:
        place += f":{url.port}"
    return f"{url.get_backend_name()}://{place}/{url.database or ''}"


def is_in_memory(url: sa.URL) -> bool:
    """Whether a URL is SQLite's and names no file."""
    database = url.database or ""
    return url.get_backend_name() == "sqlite" and (
        database in ("", ":memory:")
        or database.startswith("file::memory:")
        or url.query.get("mode") == "memory"
        or "mode=memory" in database
    )


def sqlite_path(url: sa.URL) -> Path:
    """The file of a SQLite URL, absolute.

    Raises:
        StorageError: It is a database in memory.
    """
    if is_in_memory(url):
        raise StorageError(
            "A SQLite database in memory cannot be shared between connections; name a file, "
            "for instance sqlite:///esgd.db."
        )
    database = str(url.database)
    if database.startswith("file:"):
        database = database.removeprefix("file:").partition("?")[0]
    return Path(database).resolve()


def prepare_sqlite_file(path: Path) -> None:
    """Make the file, or an empty one, with pages of 64 kB and a write-ahead log.

    The page size can only be chosen before anything is in the file.

    Raises:
        StorageError: The file cannot be made.
    """
    deadline = time.monotonic() + _SQLITE_TIMEOUT_SECONDS
    while not (path.exists() and path.stat().st_size > 0):
        error = _make_sqlite_file(path)
        if error is None:
            return
        # Another process may make it just now, for which SQLite does not wait by itself.
        if "locked" not in str(error) or time.monotonic() > deadline:
            raise StorageError(
                f"The database file {path} cannot be made: {error}. Check that its folder exists "
                "and can be written to."
            ) from error
        time.sleep(_SQLITE_PAUSE_SECONDS)


def _make_sqlite_file(path: Path) -> sqlite3.Error | None:
    """Try to make the file; what went wrong."""
    try:
        connection = sqlite3.connect(path, timeout=_SQLITE_TIMEOUT_SECONDS, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {SQLITE_PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
    except sqlite3.Error as error:
        return error
    return None


def _kind(url: sa.URL) -> DatabaseKind:
    backend = url.get_backend_name()
    match backend:
        case "sqlite" | "postgresql" | "mysql":
            return backend
        case "mariadb":
            return "mysql"
    raise StorageError(f"Databases of kind {backend!r} are not supported; use {_SUPPORTED}.")


def _sqlite_engine(url: sa.URL, _connect_args: Mapping[str, Any]) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={
            "timeout": _SQLITE_TIMEOUT_SECONDS,
            "check_same_thread": False,
            "isolation_level": None,  # BEGIN is ours to send
        },
        pool_size=2,
        max_overflow=62,
        hide_parameters=True,
    )
    sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()
    [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_LOG_BYTES // page_bytes}").close()
    try:
        connection.execute("PRAGMA journal_mode = WAL").close()
    except sqlite3.OperationalError:
        # Another connection is at work, or the file is read-only: slower, but as correct.
        return


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads and then wants to write fails at once if another wrote in between,
    # whatever the timeout; IMMEDIATE waits its turn at the start.
    begin = "BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN"
    try:
        sqlite_file(connection).execute(begin).close()
    except sqlite3.Error as error:
        raise sa.exc.OperationalError(begin, None, error) from error


def sqlite_file(connection: sa.Connection) -> sqlite3.Connection:
    """SQLite's own connection: it answers before SQLAlchemy has asked."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def _server_engine(url: sa.URL, connect_args: Mapping[str, Any]) -> sa.Engine:
    arguments = dict(connect_args)
    _warn_of_slow_driver(url)
    if url.get_driver_name() == "psycopg":
        # A prepared statement keeps the plan made for it when the tables were empty: measured 10
        # times slower after 30,000 individuals. Poolers in between do not like them either.
        arguments.setdefault("prepare_threshold", None)
    engine = sa.create_engine(
        url,
        connect_args=arguments,
        isolation_level="READ COMMITTED",
        pool_size=2,  # work, and what is written behind it; a lease is renewed by a third
        max_overflow=62,
        hide_parameters=True,
    )
    _ping_after_a_pause(engine)
    limit_idle_transactions(engine)
    if _kind(url) == "mysql":
        sa.event.listen(engine, "connect", _set_mysql_mode)
    return engine


def _warn_of_slow_driver(url: sa.URL) -> None:
    if url.get_driver_name() in _SLOW_DRIVERS:
        package, name = _SLOW_DRIVERS[url.get_driver_name()]
        _logger.warning(
            "The driver %s sends weights to %s as text. Large weights are stored two to six "
            "times faster with another: `pip install %s`, and let the URL begin with %s://.",
            url.get_driver_name(),
            describe(url),
            package,
            name,
        )


def _ping_after_a_pause(engine: sa.Engine) -> None:
    """Ask whether a connection lives before it is used, if it has rested for a while.

    SQLAlchemy's own ``pool_pre_ping`` asks every time, which is one round trip in six.
    """

    def rest(_connection: object, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    def ping(connection: Any, record: Any, _proxy: object) -> None:
        rests_since = record.info.get("rests_since")
        if rests_since is None or time.monotonic() - rests_since < _PING_AFTER_SECONDS:
            return
        dialect = engine.dialect
        try:
            is_alive = dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error:
            is_alive = False
        if not is_alive:
            raise sa.exc.DisconnectionError("The server has closed it.")

    sa.event.listen(engine, "checkin", rest)
    sa.event.listen(engine, "checkout", ping)


def limit_idle_transactions(engine: sa.Engine) -> None:
    """Have a server end transactions, of connections made from now on, in which nothing happens.

    MySQL has no such limit; there, connections end that have been idle for ten minutes.
    """
    limits = (
        f"SET SESSION idle_in_transaction_session_timeout = '{_IDLE_TRANSACTION_SECONDS}s'"
        if _kind(engine.url) == "postgresql"
        else f"SET SESSION wait_timeout = {_IDLE_SECONDS} "
        f"/*M!100301, idle_transaction_timeout = {_IDLE_TRANSACTION_SECONDS} */"
    )

    def set_limits(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(limits)
        cursor.close()
        connection.commit()

    sa.event.listen(engine, "connect", set_limits)


def _set_mysql_mode(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Without it MySQL cuts what is too long, and says nothing.
    cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')")
    cursor.close()


def _after_fork() -> None:
    global _databases_lock  # noqa: PLW0603 - another thread of the parent may have held it
    _databases_lock = threading.Lock()
    for database in _databases.values():
        database.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(close_databases)
