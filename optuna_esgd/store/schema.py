"""The schema: made where there is none, refused in another version, upgraded on order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from optuna_esgd.errors import StorageError
from optuna_esgd.store import tables
from optuna_esgd.store.engines import WRITES, Database, open_database
from optuna_esgd.store.transactions import read, translate

# Optuna refuses to open a database whose ``alembic_version`` has a row it does not know.
VERSION_TABLE = "esgd_alembic_version"
REVISIONS = ("0001", "0002")  # oldest first; the migrations in ``migrations/versions``
HEAD = REVISIONS[-1]

_LOCK_SECONDS = 60
_LOCK_KEY = 0x65736764  # "esgd", for PostgreSQL's advisory locks


def read_version(database: Database) -> str | None:
    """The schema's version; None where there are no tables of ours yet.

    Raises:
        StorageError: The database cannot be reached.
    """
    return read(database, _version)


def check_version(database: Database, version: str | None) -> None:
    """Refuse a schema of another version; never changes it.

    Raises:
        StorageError: Says what to run.
    """
    if version in (None, HEAD):
        return
    if version in REVISIONS:
        raise StorageError(
            f"The tables in {database} are of version {version}, this package needs {HEAD}. Stop "
            "all workers, make a copy of the database, and run `optuna-esgd storage upgrade URL`."
        )
    raise StorageError(
        f"The tables in {database} are of version {version}, which this package ({HEAD}) does "
        "not know: they were made by a newer one. Update with `pip install -U optuna_esgd`."
    )


def ensure_schema(database: Database) -> None:
    """Make the tables where there are none, whoever else is doing the same.

    Raises:
        StorageError: The tables are of another version, or cannot be made.
    """
    version = read_version(database)
    check_version(database, version)
    if version is None:
        create_schema(database)


def create_schema(database: Database) -> None:
    """Make the tables; nothing happens where they are.

    Raises:
        StorageError: They cannot be made.
    """
    _in_turn(database, _create)


def upgrade_schema(url: str) -> None:
    """Bring the tables of a database to this package's version, making them if need be.

    Raises:
        StorageError: The database cannot be reached, or its tables are newer than this package.
    """
    database = open_database(url)
    version = read_version(database)
    if version is not None and version not in REVISIONS:
        check_version(database, version)
    if version is None:
        create_schema(database)
    else:
        _in_turn(database, _migrate)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.scalar(
        sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
    )
    return version


def _create(connection: sa.Connection) -> None:
    if _version(connection) is not None:
        return  # another process was first
    tables.metadata.create_all(connection)
    # Last, because MySQL has no transaction around CREATE TABLE: whoever finds tables without a
    # version goes on where a dead process stopped.
    _stamp(connection)


def _stamp(connection: sa.Connection) -> None:
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - slow, rarely needed
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    context.stamp(ScriptDirectory.from_config(alembic_configuration(connection)), HEAD)


def _migrate(connection: sa.Connection) -> None:
    from alembic import command  # noqa: PLC0415 - slow, rarely needed

    command.upgrade(alembic_configuration(connection), HEAD)


def alembic_configuration(connection: sa.Connection) -> Any:
    """Alembic's configuration for the migrations in this package, on an open connection."""
    from alembic.config import Config  # noqa: PLC0415 - slow, rarely needed

    configuration = Config(attributes={"connection": connection})
    folder = str(Path(__file__).parent / "migrations")
    configuration.set_main_option("script_location", folder.replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    return configuration


def _in_turn(database: Database, body: Callable[[sa.Connection], None]) -> None:
    try:
        with taking_turns(database) as connection:
            body(connection)
    except sa.exc.SQLAlchemyError as error:
        raise translate(error, database) from None


@contextmanager
def taking_turns(database: Database) -> Iterator[sa.Connection]:
    """A transaction that only one process at a time may be in, to make tables."""
    with (
        database.engine.connect() as plain,
        _lock(database, plain.execution_options(**{WRITES: True})) as connection,
        connection.begin(),
    ):
        if database.kind == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        yield connection


@contextmanager
def _lock(database: Database, connection: sa.Connection) -> Iterator[sa.Connection]:
    """MySQL commits at every CREATE TABLE, so its lock must outlive transactions.

    SQLite and PostgreSQL lock within the transaction.
    """
    if database.kind != "mysql":
        yield connection
        return
    # The name is the whole server's, and at most 64 characters long.
    place = hashlib.sha256(str(database.url.database).encode()).hexdigest()[:32]
    name = f"esgd_schema_{place}"
    is_mine = connection.scalar(sa.select(sa.func.get_lock(name, _LOCK_SECONDS)))
    connection.commit()
    if is_mine != 1:
        raise StorageError(f"Another process has been making tables in {database} for a minute.")
    try:
        yield connection
    finally:
        if not connection.invalidated:
            connection.rollback()
            connection.execute(sa.select(sa.func.release_lock(name)))
            connection.commit()
