"""The bytes of stored chunks, by the fastest way each driver has; unchecked.

What is larger than a chunk is none, and is not fetched to find that out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from optuna_esgd.store.chunks import CHUNK_BYTES
from optuna_esgd.store.engines import sqlite_file
from optuna_esgd.store.tables import chunk

Payload = bytes | memoryview

_BATCH_CHUNKS = 4  # more at a time is more memory at a time, and slower
QUERY_DIGESTS = 500  # that one statement names


def read_payloads(
    connection: sa.Connection, digests: Sequence[str]
) -> Iterator[tuple[str, Payload | None]]:
    """Each digest with its chunk's bytes, in the order given; None where they are gone.

    One chunk after the other where the driver can, so that it is still in the processor's cache
    when it is checked and copied; else four at a time. The connection is busy until the last one.
    """
    match connection.dialect.driver:
        case "pysqlite":
            fetch, n_digests = _from_sqlite, QUERY_DIGESTS
        case "psycopg":
            fetch, n_digests = _from_psycopg, QUERY_DIGESTS
        case _:
            fetch, n_digests = _from_server, _BATCH_CHUNKS
    for start in range(0, len(digests), n_digests):
        batch = digests[start : start + n_digests]
        yield from zip(batch, fetch(connection, batch), strict=True)


def _from_sqlite(connection: sa.Connection, digests: Sequence[str]) -> Iterator[Payload | None]:
    """Blobs opened by row: their pages are copied once, not first put together by SQLite."""
    file, rows = sqlite_file(connection), row_ids(connection, digests)
    for digest in digests:
        yield _read_blob(file, rows[digest]) if digest in rows else None


def row_ids(connection: sa.Connection, digests: Sequence[str]) -> dict[str, int]:
    """Under which numbers SQLite keeps those of these chunks that are stored."""
    marks = ", ".join("?" * len(digests))
    find = f"SELECT digest, rowid FROM {chunk.name} WHERE digest IN ({marks})"  # noqa: S608
    return dict(sqlite_file(connection).execute(find, digests).fetchall())


def _read_blob(file: sqlite3.Connection, row: int) -> bytes | None:
    with file.blobopen(chunk.name, chunk.c.payload.name, row, readonly=True) as blob:
        return blob.read() if len(blob) <= CHUNK_BYTES else None


def _from_server(connection: sa.Connection, digests: Sequence[str]) -> Iterator[Payload | None]:
    is_small = sa.func.length(chunk.c.payload) <= CHUNK_BYTES
    wanted = sorted(set(digests))
    rows = connection.execute(
        sa.select(chunk.c.digest, chunk.c.payload).where(chunk.c.digest.in_(wanted), is_small)
    )
    payloads: dict[str, Payload] = {row.digest: row.payload for row in rows}
    yield from map(payloads.get, digests)


def _from_psycopg(connection: sa.Connection, digests: Sequence[str]) -> Iterator[Payload | None]:
    """Copied out, each as it arrives; SQLAlchemy asks psycopg for text, three times as slow."""
    driver_connection: Any = connection.connection.driver_connection
    copy_out = (
        f"COPY (SELECT payload FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (name, place) "  # noqa: S608
        f"LEFT JOIN {chunk.name} ON digest = name AND length(payload) <= %s ORDER BY place) "
        "TO STDOUT (FORMAT BINARY)"
    )
    with (
        driver_connection.cursor() as cursor,
        cursor.copy(copy_out, [list(digests), CHUNK_BYTES]) as copied,
    ):
        copied.set_types(["bytea"])
        for (payload,) in copied.rows():
            yield payload
