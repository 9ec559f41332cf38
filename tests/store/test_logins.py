"""Servers that check passwords: the right one works, and a wrong one is kept to ourselves."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

import optuna
import pytest
import sqlalchemy as sa

from optuna_esgd.errors import StorageError
from optuna_esgd.store.artifacts import SqlArtifactStore
from optuna_esgd.store.engines import close_databases, open_database
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.storages import create_storage
from tests.databases import Databases
from tests.faults.servers import private_server
from tests.store.studies import open_small, start

_RIGHT = "r1ght%40t/p w"
_WRONG = "wr0ng%40t/p w"


@pytest.fixture(scope="module")
def mysql(databases: Databases) -> Iterator[sa.URL]:
    """A database of a user who has a password."""
    server = databases.server("mysql")
    place = sa.make_url(server.make())
    user = f"esgd_{uuid.uuid4().hex[:8]}"
    root = sa.create_engine(place, poolclass=sa.NullPool)
    with root.begin() as connection:
        connection.execute(sa.text(f"CREATE USER {user} IDENTIFIED BY :word"), {"word": _RIGHT})
        connection.exec_driver_sql(f"GRANT ALL ON {place.database}.* TO {user}")
    yield place.set(username=user, password=_RIGHT)
    close_databases()
    with root.begin() as connection:
        connection.exec_driver_sql(f"DROP USER {user}")
    server.give_back(place.render_as_string(hide_password=False))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[sa.URL]:
    """A server that asks everybody for the password."""
    with private_server("postgresql") as server:
        place = sa.make_url(server.url)
        owner = sa.create_engine(place, poolclass=sa.NullPool)
        with owner.connect() as connection:
            rules = connection.exec_driver_sql("SHOW hba_file").scalar_one()
        with owner.begin() as connection:
            word = _RIGHT.replace("'", "''")
            connection.exec_driver_sql(
                f"CREATE ROLE guest SUPERUSER LOGIN PASSWORD '{word.replace('%', '%%')}'"
            )
        with open(rules, "w", encoding="utf-8") as file:  # noqa: PTH123 - the server's own path
            file.write(f"local all {place.username} trust\nlocal all all scram-sha-256\n")
        with owner.connect() as connection:
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield place.set(username="guest", password=_RIGHT)
        close_databases()


@pytest.fixture(
    params=["postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql", "mysql+mysqldb"]
)
def place(request: pytest.FixtureRequest) -> sa.URL:
    """A server, by the driver that talks to it."""
    kind, _, driver = str(request.param).partition("+")
    pytest.importorskip({"mysqldb": "MySQLdb"}.get(driver, driver))
    found: sa.URL = request.getfixturevalue(kind)
    return found.set(drivername=str(request.param))


def test_the_right_password_is_not_kept_anywhere(
    place: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="optuna_esgd")
    url = place.render_as_string(hide_password=False)
    study = optuna.create_study(storage=create_storage(url))
    population = open_small(study, store=url)
    start(population)
    assert open_results(study).individuals()
    _says_no_password(f"{caplog.text} {population!r}")
    tables = sa.MetaData()
    engine = sa.create_engine(place, poolclass=sa.NullPool)
    tables.reflect(engine)
    with engine.connect() as connection:
        for table in tables.sorted_tables:
            _says_no_password(repr(connection.execute(sa.select(table)).all()))


def test_a_wrong_password_is_refused_without_being_said(
    place: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="optuna_esgd")
    url = place.set(password=_WRONG).render_as_string(hide_password=False)
    doors: list[Callable[[], object]] = [
        lambda: create_storage(url),
        lambda: SqlArtifactStore(url),
        lambda: open_small(optuna.create_study(), store=url),
    ]
    for door in doors:
        with pytest.raises(StorageError, match="Check the URL") as caught:
            door()
        _says_no_password("".join(traceback.format_exception(caught.value)))
    _says_no_password(f"{caplog.text} {open_database(url)!r}")


def _says_no_password(text: str) -> None:
    for word in (_RIGHT, _WRONG):
        assert word not in text
        assert quote_plus(word) not in text
        assert quote(word) not in text
