"""Snapshots in SQL: chunks go up first, in small transactions; links commit with the fitness."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.errors import CorruptionError, StorageError
from optuna_esgd.memory import empty_bytes
from optuna_esgd.store.chunks import (
    CHUNK_BYTES,
    MOST_MANIFEST_BYTES,
    Chunk,
    Link,
    Listing,
    check_chunk,
    check_listing,
    payload_size,
)
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.engines import Database, sqlite_file
from optuna_esgd.store.payloads import QUERY_DIGESTS, read_payloads, row_ids
from optuna_esgd.store.tables import chunk, link, snapshot
from optuna_esgd.store.transactions import read, write

_T = TypeVar("_T")

# Up to here it is faster to send what may be there already than to ask first.
_BLIND_BYTES = 2**18
_CODEC = "raw"
_TRANSACTION_CHUNKS = 16 * 2**20 // CHUNK_BYTES
_TEXT_DRIVERS = frozenset({"mysqldb"})
_VIEW_DRIVERS = frozenset({"psycopg"})
# Written out, since SQLAlchemy takes longer to ask than SQLite to answer.
_SIZES = (
    "SELECT n_bytes, length(manifest), "  # noqa: S608
    f"CASE WHEN length(manifest) <= {MOST_MANIFEST_BYTES} THEN manifest END "
    f"FROM {snapshot.name} WHERE digest = :digest"
)
_LINKS = (
    f"SELECT {link.name}.chunk, {chunk.name}.n_bytes, {chunk.name}.codec "  # noqa: S608
    f"FROM {link.name} LEFT JOIN {chunk.name} ON {link.name}.chunk = {chunk.name}.digest "
    f"WHERE {link.name}.snapshot = :digest ORDER BY {link.name}.position LIMIT :n_links"
)
# Payloads up to here go in the transaction that uses them: one commit instead of two.
SMALL_BYTES = 4 * 2**20


def upload(database: Database, chunks: Iterable[Chunk]) -> None:
    """Store the chunks that are not there yet, at most 16 MB in one transaction."""
    wanted = {one.digest: one for one in chunks}
    missing = read(database, missing_chunks, wanted)
    # In one order, so that two workers with the same chunks wait for each other at most once.
    for batch in batches(sorted(missing), _TRANSACTION_CHUNKS):
        write(database, _upload_some, [wanted[digest] for digest in batch])


def _upload_some(connection: sa.Connection, chunks: Iterable[Chunk]) -> None:
    if connection.dialect.name == "postgresql":
        # The commit of what uses them waits for the disk, and for all that was committed before.
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
    insert_chunks(connection, chunks)


def are_small(chunks: Iterable[Chunk]) -> bool:
    """Whether chunks may be inserted along with what uses them."""
    sizes = {one.digest: len(one.payload) for one in chunks}
    return sum(sizes.values()) <= SMALL_BYTES


def insert_chunks(connection: sa.Connection, chunks: Iterable[Chunk]) -> None:
    """Store the chunks that are not there yet."""
    wanted = {one.digest: one for one in chunks}
    n_bytes = sum(len(one.payload) for one in wanted.values())
    is_blind = n_bytes <= _BLIND_BYTES and _can_pass_over(connection)
    digests = wanted.keys() if is_blind else missing_chunks(connection, wanted)
    missing = [wanted[digest] for digest in sorted(digests)]
    if connection.dialect.driver == "pysqlite":
        _insert_into_sqlite(connection, missing)
        return
    insert = _insert_as_text if connection.dialect.driver in _TEXT_DRIVERS else _insert
    for batch in _statements(missing):
        insert(connection, batch)


def _insert_into_sqlite(connection: sa.Connection, missing: Iterable[Chunk]) -> None:
    """Rows of zeros first, then their bytes, which the driver would copy twice as parameters."""
    file, now = sqlite_file(connection), now_seconds().compile(connection.engine)
    statement = (
        f"INSERT INTO {chunk.name} (digest, codec, n_bytes, payload, created_at) "  # noqa: S608
        f"VALUES (?, '{_CODEC}', ?, zeroblob(?), {now}) ON CONFLICT DO NOTHING"
    )
    for one in missing:
        n_bytes = len(one.payload)
        inserted = file.execute(statement, (one.digest, n_bytes, n_bytes))
        row = inserted.lastrowid
        if inserted.rowcount == 1 and row is not None:
            with file.blobopen(chunk.name, chunk.c.payload.name, row) as blob:
                blob.write(one.payload)


def _insert(connection: sa.Connection, batch: list[Chunk]) -> None:
    takes_views = connection.dialect.driver in _VIEW_DRIVERS
    rows = [
        {
            "digest": one.digest,
            "n_bytes": len(one.payload),
            "payload": one.payload if takes_views else bytes(one.payload),
        }
        for one in batch
    ]
    statement = _insert_new(connection, chunk).values(codec=_CODEC, created_at=now_seconds())
    connection.execute(statement, rows)


def _insert_as_text(connection: sa.Connection, batch: list[Chunk]) -> None:
    """As ``_insert``, for drivers that escape every byte: digits are three times as fast."""
    now = now_seconds().compile(connection.engine)
    rows = ", ".join(
        f"('{one.digest}', '{_CODEC}', {len(one.payload)}, x'{one.payload.hex()}', {now})"
        for one in batch
    )
    # Digests, sizes and hexadecimal digits: nothing in it comes from outside.
    connection.exec_driver_sql(
        f"INSERT INTO {chunk.name} (digest, codec, n_bytes, payload, created_at) "  # noqa: S608
        f"VALUES {rows}"
    )


def missing_chunks(connection: sa.Connection, digests: Iterable[str]) -> set[str]:
    """Which of these chunks are not stored."""
    missing = set(digests)
    for batch in batches(sorted(missing), QUERY_DIGESTS):
        if connection.dialect.name == "sqlite":
            missing.difference_update(row_ids(connection, batch))
            continue
        found = connection.scalars(sa.select(chunk.c.digest).where(chunk.c.digest.in_(batch)))
        missing.difference_update(found)
    return missing


def insert_snapshots(connection: sa.Connection, listings: Iterable[Listing]) -> None:
    """Store the snapshots that are not there yet, with their links; their chunks must be."""
    wanted = {one.digest: one for one in listings}
    if _can_pass_over(connection):
        _insert_snapshots(connection, [wanted[digest] for digest in sorted(wanted)])
        return
    for batch in batches(sorted(wanted), QUERY_DIGESTS):
        query = sa.select(snapshot.c.digest).where(snapshot.c.digest.in_(batch))
        known = set(connection.scalars(query))
        missing = [wanted[digest] for digest in batch if digest not in known]
        _insert_snapshots(connection, missing)


def _insert_snapshots(connection: sa.Connection, listings: Sequence[Listing]) -> None:
    snapshots = [
        {"digest": one.digest, "manifest": one.manifest, "n_bytes": one.n_bytes}
        for one in listings
    ]
    links = [
        {"snapshot": one.digest, "position": position, "chunk": part.chunk}
        for one in listings
        for position, part in enumerate(one.links)
    ]
    if connection.dialect.name == "sqlite":
        file, now = sqlite_file(connection), now_seconds().compile(connection.engine)
        file.executemany(
            f"INSERT INTO {snapshot.name} (digest, manifest, n_bytes, created_at) "  # noqa: S608
            f"VALUES (:digest, :manifest, :n_bytes, {now}) ON CONFLICT DO NOTHING",
            snapshots,
        )
        file.executemany(
            f"INSERT INTO {link.name} (snapshot, position, chunk) "  # noqa: S608
            "VALUES (:snapshot, :position, :chunk) ON CONFLICT DO NOTHING",
            links,
        )
        return
    if snapshots:
        statement = _insert_new(connection, snapshot).values(created_at=now_seconds())
        connection.execute(statement, snapshots)
    if links:
        connection.execute(_insert_new(connection, link), links)


def _can_pass_over(connection: sa.Connection) -> bool:
    """Whether rows that are there already can be passed over; MySQL would pass over errors too."""
    return connection.dialect.name in ("sqlite", "postgresql")


def _insert_new(connection: sa.Connection, table: sa.Table) -> sa.Insert:
    """Insert rows that are not there yet, where the database can; else all of them."""
    match connection.dialect.name:
        case "sqlite":
            return sqlite.insert(table).on_conflict_do_nothing()
        case "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
    return sa.insert(table)


def read_snapshot(connection: sa.Connection, digest: str, owner: str) -> Snapshot:
    """Read a snapshot; every byte is checked. Its payload is nobody else's.

    Args:
        connection: In a transaction that sees one snapshot of the database.
        digest: Which.
        owner: Whose it is, for messages.

    Raises:
        CorruptionError: Says which chunk, of whom.
        StorageError: It is larger than this machine's memory.
    """
    listing = read_listing(connection, digest, owner, most_bytes=_memory_bytes())
    check_listing(owner, listing)
    payload = empty_bytes(listing.n_bytes)
    start = 0
    for position, one, part in read_chunks(connection, listing.links):
        payload[start : start + one.n_bytes] = check_chunk(owner, position, one, part)
        start += one.n_bytes
    return Snapshot(listing.manifest, payload)


def read_listing(
    connection: sa.Connection, digest: str, owner: str, *, most_bytes: int | None = None
) -> Listing:
    """What is listed of a stored snapshot; nothing that is too large is fetched.

    Args:
        connection: In a transaction.
        digest: Which.
        owner: Whose it is, for messages.
        most_bytes: How large its payload may be; None for any size.

    Raises:
        CorruptionError: Its manifest is larger than any that is written.
        StorageError: Its payload is larger than allowed, or stored in an unknown way.
    """
    asked = {"digest": digest}
    [(n_bytes, n_manifest_bytes, manifest)] = fetch_rows(connection, _SIZES, asked)
    if manifest is None:
        raise CorruptionError(
            f"The manifest of {owner} has {n_manifest_bytes} bytes; no more than "
            f"{MOST_MANIFEST_BYTES} are ever written. Other individuals are not affected."
        )
    if most_bytes is not None and n_bytes > most_bytes:
        described = payload_size(bytes(manifest))
        if described != n_bytes:
            raise CorruptionError(
                f"The sizes stored for {owner} contradict each other: its manifest says "
                f"{described} bytes, its snapshot {n_bytes}. Other individuals are not affected."
            )
        raise StorageError(
            f"It would take {n_bytes} bytes of memory to read {owner}; this machine has "
            f"{most_bytes}."
        )
    n_links = max(0, n_bytes) // CHUNK_BYTES + 2  # one more than there can be
    links = fetch_rows(connection, _LINKS, {**asked, "n_links": n_links})
    unknown = {codec for _, _, codec in links if codec not in (_CODEC, None)}
    if unknown:
        raise StorageError(
            f"Chunks are stored with codecs {sorted(unknown)}, this package knows {_CODEC!r}. "
            "Update with `pip install -U optuna_esgd`."
        )
    parts = tuple(Link(name, size or 0) for name, size, _ in links)
    return Listing(digest, bytes(manifest), n_bytes, parts)


def read_chunks(
    connection: sa.Connection, links: Sequence[Link]
) -> Iterator[tuple[int, Link, bytes | memoryview | None]]:
    """The payloads of some links, unchecked, with their positions; None where one is gone."""
    payloads = read_payloads(connection, [one.chunk for one in links])
    for position, (one, (_, payload)) in enumerate(zip(links, payloads, strict=True)):
        yield position, one, payload


def fetch_rows(
    connection: sa.Connection, statement: str, values: Mapping[str, Any]
) -> Sequence[Any]:
    """The rows of a statement that all databases understand, with values ``:named`` in it."""
    if connection.dialect.name == "sqlite":
        return sqlite_file(connection).execute(statement, values).fetchall()
    return connection.execute(sa.text(statement), values).all()


def _memory_bytes() -> int | None:
    """How much memory this machine has; None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Cut into lists of at most ``size``."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _statements(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks to insert together: drivers that join rows must not break the packet limit."""
    batch: list[Chunk] = []
    n_bytes = 0
    for one in chunks:
        if batch and n_bytes + len(one.payload) > CHUNK_BYTES:
            yield batch
            batch, n_bytes = [], 0
        batch.append(one)
        n_bytes += len(one.payload)
    if batch:
        yield batch
