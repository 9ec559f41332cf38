"""The database's clock as an SQL expression: leases of all workers run out by the same one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_seconds(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since the epoch, with fractions."""

    name = "now_seconds"
    type = Double()
    inherit_cache = True  # of compiled statements: without it each is compiled every time


@compiles(now_seconds, "sqlite")
def _sqlite(*_arguments: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_seconds, "postgresql")
def _postgresql(*_arguments: Any, **_options: Any) -> str:
    # Not now(): that is when the transaction began, long ago where it waited for a lock.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(now_seconds, "mysql")
@compiles(now_seconds, "mariadb")
def _mysql(*_arguments: Any, **_options: Any) -> str:
    # Not UNIX_TIMESTAMP(): it takes the time zone's detour and stumbles when summer time ends.
    return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)) / 1000000.0)"
