"""Transactions, run again when another was in the way; only here is known how errors look."""

from __future__ import annotations

import itertools
import logging
import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import quote, quote_plus

import sqlalchemy as sa

from optuna_esgd.errors import StorageError, UnavailableError
from optuna_esgd.store.engines import WRITES, Database

_logger = logging.getLogger(__name__)
# Of its own: training may depend on Python's global one.
_random = random.Random()  # noqa: S311 - spreads workers, hides nothing
_T = TypeVar("_T")
_P = ParamSpec("_P")

_PATIENCE_SECONDS = 60.0
_MOST_CONFLICTS = 10
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.005, 1.0

Obstacle = Literal["busy", "conflict", "disconnected", "fatal"]

# 40001 serialization failure, 40P01 deadlock, 55P03 lock timeout;
# 23503 foreign key, 23505 unique.
_POSTGRESQL: dict[str, Obstacle] = {
    "40001": "busy",
    "40P01": "busy",
    "55P03": "busy",
    "23503": "conflict",
    "23505": "conflict",
}
# 1020 record changed since read, 1205 lock timeout, 1213 deadlock;
# 1062 unique, 1451 and 1452 foreign key.
_MYSQL: dict[int, Obstacle] = {
    1020: "busy",
    1205: "busy",
    1213: "busy",
    1062: "conflict",
    1451: "conflict",
    1452: "conflict",
}
# 53100 disk full; 1021 disk full, 1114 table full.
_FULL = {"53100", 1021, 1114}
_SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_SQLITE_CONFLICTS = {
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
}


def read(
    database: Database,
    body: Callable[Concatenate[sa.Connection, _P], _T],
    /,
    *arguments: _P.args,
    **options: _P.kwargs,
) -> _T:
    """Run ``body(connection, ...)`` on one snapshot of the database; raises as ``write``."""
    mode = {} if database.kind == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    return _run(database, mode, lambda connection: body(connection, *arguments, **options))


def write(
    database: Database,
    body: Callable[Concatenate[sa.Connection, _P], _T],
    /,
    *arguments: _P.args,
    **options: _P.kwargs,
) -> _T:
    """Run ``body(connection, ...)`` in a transaction, again as long as others are in its way.

    Deadlocks, serialization failures, lock timeouts, lost connections, and violated unique and
    foreign keys start it again from its first statement. So a body looks before it inserts, and
    finds on its second run what was in its way on the first.

    Raises:
        UnavailableError: The database cannot be reached, or others were in the way for a minute.
        StorageError: It went on refusing.
    """
    result = _run(
        database, {WRITES: True}, lambda connection: body(connection, *arguments, **options)
    )
    database.merge_log()
    return result


def _run(database: Database, mode: dict[str, Any], body: Callable[[sa.Connection], _T]) -> _T:
    started = time.monotonic()
    n_conflicts = 0
    for n_tries in itertools.count(1):
        try:
            with database.engine.connect() as plain:
                database.was_reached = True
                connection = plain.execution_options(**mode) if mode else plain
                with connection.begin():
                    return body(connection)
        except (sa.exc.SQLAlchemyError, _driver_error(database)) as error:
            obstacle = classify(error, database)
            n_conflicts += obstacle == "conflict"
            is_over = time.monotonic() - started > _PATIENCE_SECONDS
            # Nothing is gained by insisting on an address that was never right.
            is_over |= obstacle == "disconnected" and not database.was_reached
            if obstacle == "fatal" or is_over or n_conflicts > _MOST_CONFLICTS:
                raise translate(error, database, n_tries=n_tries) from None
            _logger.debug("%s: %s, trying again (%d)", database, obstacle, n_tries)
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(n_tries, 10))
        time.sleep(_random.uniform(0, longest))
    raise AssertionError("unreachable")


def classify(error: BaseException, database: Database) -> Obstacle:
    """Say what stood in the way of a transaction."""
    cause: Any = getattr(error, "orig", None) or error
    code, state, number = _codes(cause)
    if code is not None:
        if code & 0xFF in _SQLITE_BUSY:
            return "busy"
        return "conflict" if code in _SQLITE_CONFLICTS else "fatal"
    known: Obstacle | None = None
    if database.kind == "postgresql":
        known = _POSTGRESQL.get(str(state))
    elif number is not None:
        known = _MYSQL.get(number)
    if known is not None:
        return known
    return "disconnected" if _is_disconnect(error, cause, database) else "fatal"


def _codes(cause: Any) -> tuple[int | None, str | None, int | None]:
    """(SQLite's code, SQLSTATE, MySQL's number) of a driver's error, as far as it has them."""
    code = getattr(cause, "sqlite_errorcode", None)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    number = getattr(cause, "errno", None) or next(iter(getattr(cause, "args", ())), None)
    return (
        code if isinstance(code, int) else None,
        state if isinstance(state, str) else None,
        number if isinstance(number, int) else None,
    )


def translate(error: BaseException, database: Database, *, n_tries: int = 1) -> StorageError:
    """Turn a database error into ours, without passwords."""
    cause = getattr(error, "orig", None) or error
    text = redact(" ".join(str(cause).split()), database.url)
    tries = f" after {n_tries} tries" if n_tries > 1 else ""
    advice = advise(error, was_reached=database.was_reached)
    what = type(cause).__name__
    kind = kind_of(error, database)
    return kind(f"The database {database} failed{tries}: {what}: {text}.{advice}")


def kind_of(error: BaseException, database: Database) -> type[StorageError]:
    """Which of our errors a database's error is: whether it may pass."""
    may_pass = classify(error, database) in ("busy", "disconnected")
    return UnavailableError if may_pass else StorageError


def advise(error: BaseException, *, was_reached: bool) -> str:
    """What to do about a database error, as the end of a message; "" if it speaks for itself."""
    cause = getattr(error, "orig", None) or error
    code, state, number = _codes(cause)
    if (code is not None and code & 0xFF == sqlite3.SQLITE_FULL) or not _FULL.isdisjoint(
        (state, number)
    ):
        return " Nothing that was stored is lost: make room, and start the workers again."
    if was_reached:
        return ""
    if code is not None:  # SQLite's
        return " Check the file that the URL names."
    return " Check the URL, and that the server runs and lets you in."


def redact(text: str, url: sa.URL) -> str:
    """Remove what a URL holds that nobody should read."""
    secrets = [str(url.password)] if url.password else []
    for name, values in url.query.items():
        if "pass" in name.lower() or "key" in name.lower() or "secret" in name.lower():
            secrets.extend([values] if isinstance(values, str) else values)
    for secret in secrets:
        for form in {
            secret,
            quote_plus(secret),
            *(quote(secret, safe=s) for s in ("", "/", " +")),
        }:
            text = text.replace(form, "***")
    return text


def _is_disconnect(error: BaseException, cause: Any, database: Database) -> bool:
    if getattr(error, "connection_invalidated", False):
        return True
    if isinstance(error, sa.exc.DBAPIError) and error.statement is None:
        return True  # no statement: the connection itself could not be made
    dialect = database.engine.dialect
    return bool(dialect.is_disconnect(cause, None, None))


def _driver_error(database: Database) -> type[BaseException]:
    error: type[BaseException] = database.engine.dialect.loaded_dbapi.Error
    return error
