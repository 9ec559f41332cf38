"""One statement for many rows, without what SQLAlchemy does for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler

# Of others SQLAlchemy joins the rows itself, or they are measured to gain nothing.
_DRIVERS = frozenset({"pysqlite", "psycopg"})


def execute_many(
    connection: sa.Connection,
    statement: sa.Insert | sa.Update,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """As ``connection.execute``, where drivers take the values as they are.

    Which they do with numbers, texts, booleans, bytes and None.

    Args:
        connection: In a transaction.
        statement: Made once, or made of few words: it is compiled once for each connection's
            driver and remembered.
        rows: All with the same names, in the same order.
    """
    if connection.dialect.driver not in _DRIVERS:
        connection.execute(statement, list(rows))
        return
    compiled, constants = _compile(statement, tuple(rows[0]), connection.dialect)
    order = compiled.positiontup
    filled = [{**constants, **row} for row in rows] if constants or order is None else rows
    if order is None:
        connection.exec_driver_sql(str(compiled), filled)
    else:
        values = [tuple([row[name] for name in order]) for row in filled]
        connection.exec_driver_sql(str(compiled), values)


@lru_cache(maxsize=256)
def _compile(
    statement: sa.Insert | sa.Update, names: tuple[str, ...], dialect: sa.Dialect
) -> tuple[SQLCompiler, dict[str, Any]]:
    """The statement in the dialect's words, and what it brings along itself."""
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    constants = {
        name: value for name, value in (compiled.params or {}).items() if name not in names
    }
    return compiled, constants
