"""The bytes of stored chunks, by the fastest way each driver has; unchecked.

What is larger than a chunk is none, and is not fetched to find that out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, cast

import sqlalchemy as sa

from optuna_esgd.store.chunks import CHUNK_BYTES
from optuna_esgd.store.tables import chunk

Payload = bytes | memoryview

_BATCH_CHUNKS = 16
QUERY_DIGESTS = 500  # that one statement names


def read_payloads(
    connection: sa.Connection, digests: Sequence[str]
) -> Iterator[tuple[str, Payload | None]]:
    """Each digest with its chunk's bytes, in the order given; None where they are gone.

    On SQLite one chunk after the other, so that it is still in the processor's cache when it is
    checked and copied; from servers 16 at a time.
    """
    match connection.dialect.driver:
        case "pysqlite":
            yield from _from_sqlite(connection, digests)
            return
        case "psycopg":
            fetch = _from_psycopg
        case _:
            fetch = _from_server
    for start in range(0, len(digests), _BATCH_CHUNKS):
        batch = digests[start : start + _BATCH_CHUNKS]
        payloads = fetch(connection, sorted(set(batch)))
        for digest in batch:
            yield digest, payloads.get(digest)


def _from_sqlite(
    connection: sa.Connection, digests: Sequence[str]
) -> Iterator[tuple[str, bytes | None]]:
    """Blobs opened by row: their pages are copied once, not first put together by SQLite."""
    file = cast("sqlite3.Connection", connection.connection.driver_connection)
    rowid: sa.ColumnElement[int] = sa.literal_column("rowid", sa.Integer)
    for start in range(0, len(digests), QUERY_DIGESTS):
        batch = digests[start : start + QUERY_DIGESTS]
        find = sa.select(chunk.c.digest, rowid).where(chunk.c.digest.in_(sorted(set(batch))))
        rows = {one.digest: one.rowid for one in connection.execute(find)}
        for digest in batch:
            yield digest, _read_blob(file, rows[digest]) if digest in rows else None


def _read_blob(file: sqlite3.Connection, row: int) -> bytes | None:
    with file.blobopen(chunk.name, chunk.c.payload.name, row, readonly=True) as blob:
        return blob.read() if len(blob) <= CHUNK_BYTES else None


def _from_server(connection: sa.Connection, digests: list[str]) -> dict[str, Payload]:
    is_small = sa.func.length(chunk.c.payload) <= CHUNK_BYTES
    rows = connection.execute(
        sa.select(chunk.c.digest, chunk.c.payload).where(chunk.c.digest.in_(digests), is_small)
    )
    return {row.digest: row.payload for row in rows}


def _from_psycopg(connection: sa.Connection, digests: list[str]) -> dict[str, Payload]:
    """Copied out row by row; SQLAlchemy asks psycopg for text, which is three times slower."""
    driver_connection: Any = connection.connection.driver_connection
    copy_out = (
        f"COPY (SELECT digest, payload FROM {chunk.name} WHERE digest = ANY(%s) "  # noqa: S608
        "AND length(payload) <= %s) TO STDOUT (FORMAT BINARY)"
    )
    with (
        driver_connection.cursor() as cursor,
        cursor.copy(copy_out, [digests, CHUNK_BYTES]) as copied,
    ):
        copied.set_types(["text", "bytea"])
        return dict(copied.rows())
