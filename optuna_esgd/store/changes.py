"""Waiting for others: by notification where the database has it, else by sleeping."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import SlotKey
from optuna_esgd.engine.ports import Listener
from optuna_esgd.store.engines import Database
from optuna_esgd.store.rows import begins_with_key, key_parameters
from optuna_esgd.store.tables import slot
from optuna_esgd.store.transactions import translate

_CHANNEL = "esgd_{}"
_NOTIFY = sa.select(sa.func.pg_notify(sa.bindparam("channel", type_=sa.String), ""))
_NOTIFY_IF_LAST = _NOTIFY.where(
    ~sa.exists().where(begins_with_key(slot, 2), slot.c.state != "finished")
)


class Sleeper:
    """Waits by sleeping: whoever wakes up looks for himself."""

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


def announce(connection: sa.Connection, study_uuid: str) -> None:
    """Wake those who listen to this population, when the transaction commits."""
    if connection.dialect.name == "postgresql":
        connection.execute(_NOTIFY, {"channel": _CHANNEL.format(study_uuid)})


def announce_last(connection: sa.Connection, study_uuid: str, key: SlotKey) -> None:
    """Wake those who listen if the slot was the last open one of its round.

    Nobody waits for any other. Two that finish at the same time may each see the other open; then
    nobody is woken before one of them has planned what comes next.
    """
    if connection.dialect.name == "postgresql":
        channel = _CHANNEL.format(study_uuid)
        connection.execute(
            _NOTIFY_IF_LAST, {**key_parameters(study_uuid, key[:2]), "channel": channel}
        )


@contextmanager
def listening(database: Database, study_uuid: str) -> Iterator[Listener]:
    """Hear of all that is announced from the beginning of the block on.

    Raises:
        StorageError: The database cannot be reached.
    """
    if database.kind != "postgresql":
        yield Sleeper()
        return
    try:
        with database.engine.connect() as plain:
            connection = plain.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(f'LISTEN "{_CHANNEL.format(study_uuid)}"')
            try:
                yield _PostgresListener(connection)
            finally:
                connection.exec_driver_sql("UNLISTEN *")
    except sa.exc.SQLAlchemyError as error:
        raise translate(error, database) from None


class _PostgresListener:
    """Waits on a connection that listens; psycopg and psycopg2 differ in how."""

    def __init__(self, connection: sa.Connection) -> None:
        self._driver = connection.dialect.driver
        self._connection: Any = connection.connection.driver_connection

    def wait(self, seconds: float) -> None:
        """Wait for a notification, or for so long."""
        if self._driver == "psycopg":
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                return
            return
        self._connection.poll()
        if not self._connection.notifies:
            select.select([self._connection], [], [], seconds)
            self._connection.poll()
        self._connection.notifies.clear()
