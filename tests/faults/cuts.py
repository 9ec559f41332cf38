"""Cuts the connection at the n-th statement or commit, as a network or an administrator would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect


class Cuts:
    """Counts the points at which a connection can be cut, and cuts at one of them.

    Args:
        url: A server's.
        deadly: Before how many points it leaves the connection alone; None for ever.

    Attributes:
        n_points: Statements and commits so far; a commit counts twice, because its connection can
            be cut before the server has heard of it, and before the answer has come.
    """

    def __init__(self, url: str, deadly: int | None) -> None:
        self._killer = sa.create_engine(url, poolclass=sa.NullPool)
        self._deadly = deadly
        self._is_cutting = False
        self.n_points = 0

    def before_statement(self, connection: sa.Connection, *_rest: Any) -> None:
        self._pass(connection.connection.driver_connection)

    def commit(self, pooled: Any) -> None:
        """In the place of ``DefaultDialect.do_commit``."""
        self._pass(pooled.driver_connection)
        pooled.commit()
        if self._pass(pooled.driver_connection):
            pooled.driver_connection.cursor().execute("SELECT 1")  # raises: the answer is lost

    def _pass(self, driver_connection: Any) -> bool:
        """Pass a point; whether the connection was cut there."""
        if self._is_cutting:
            return False
        is_deadly = self.n_points == self._deadly
        self.n_points += 1
        if is_deadly:
            self._is_cutting = True
            self._cut(driver_connection)
            self._is_cutting = False
        return is_deadly

    def _cut(self, driver_connection: Any) -> None:
        if self._killer.dialect.name == "postgresql":
            statement = f"SELECT pg_terminate_backend({driver_connection.info.backend_pid}, 5000)"
        else:
            statement = f"KILL {driver_connection.thread_id()}"
        with self._killer.connect() as connection:
            connection.exec_driver_sql(statement)


@contextmanager
def cutting(url: str, deadly: int | None = None) -> Iterator[Cuts]:
    """Count in a block; where a number is given, cut the connection at this point."""
    cuts = Cuts(url, deadly)
    sa.event.listen(sa.Engine, "before_cursor_execute", cuts.before_statement)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultDialect, "do_commit", cuts.commit)
        yield cuts
    sa.event.remove(sa.Engine, "before_cursor_execute", cuts.before_statement)
