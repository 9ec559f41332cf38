"""The same chunks as an Optuna artifact store, so that weights can be downloaded like files."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, BinaryIO, cast

import sqlalchemy as sa
from optuna.artifacts.exceptions import ArtifactNotFound

from optuna_esgd.errors import ConfigurationError, CorruptionError, StorageError
from optuna_esgd.store import schema, weights
from optuna_esgd.store.chunks import (
    CHUNK_BYTES,
    Chunk,
    Link,
    Listing,
    are_cut_right,
    check_chunk,
    digest_of,
    list_chunks,
    snapshot_digest,
)
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.collection import sweep
from optuna_esgd.store.engines import Database, open_database
from optuna_esgd.store.tables import artifact
from optuna_esgd.store.transactions import read, write

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BATCH_CHUNKS = 16
_MOST_UPLOADS = 20
_LONGEST_ID = 255
# Optuna's artifacts are plain bytes; an empty manifest keeps them apart from snapshots.
_MANIFEST = b""


class SqlArtifactStore:
    """Implements Optuna's ``ArtifactStore`` in a database; equal files are stored once.

    Use it with ``optuna.artifacts.upload_artifact`` and ``download_artifact``. Files are streamed:
    neither writing nor reading holds one in memory.

    Args:
        url: SQLite, PostgreSQL, MySQL or MariaDB; may hold studies and populations as well.

    Raises:
        StorageError: The database cannot be reached, or has tables of another version.
    """

    def __init__(self, url: str) -> None:
        self._database = open_database(url)
        schema.ensure_schema(self._database)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for reading; every chunk is checked as it is read.

        Raises:
            ArtifactNotFound: There is none of this name.
            CorruptionError: What is listed of it does not fit together.
        """
        links = read(self._database, _links, artifact_id)
        if links is None:
            raise ArtifactNotFound(f"There is no artifact {artifact_id!r} in {self._database}.")
        if not are_cut_right(links):
            raise CorruptionError(f"The sizes stored for artifact {artifact_id!r} are impossible.")
        return cast("BinaryIO", _Buffered(_Reader(self._database, artifact_id, links)))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact, in place of one of the same name if there is one.

        Raises:
            ConfigurationError: The name is too long.
            StorageError: The database went on refusing.
        """
        if not 0 < len(artifact_id) <= _LONGEST_ID:
            raise ConfigurationError(
                f"An artifact's name must have 1 to {_LONGEST_ID} characters, got "
                f"{len(artifact_id)}."
            )
        if content_body.seekable():
            self._write(artifact_id, content_body)
            return
        with tempfile.TemporaryFile() as copy:
            while part := content_body.read(CHUNK_BYTES):
                copy.write(part)
            copy.seek(0)
            self._write(artifact_id, cast("BinaryIO", copy))

    def remove(self, artifact_id: str) -> None:
        """Delete an artifact.

        Raises:
            ArtifactNotFound: There is none of this name.
        """
        if not write(self._database, _remove, artifact_id):
            raise ArtifactNotFound(f"There is no artifact {artifact_id!r} in {self._database}.")
        sweep(self._database)

    def _write(self, artifact_id: str, content: BinaryIO) -> None:
        start = content.tell()
        for _ in range(_MOST_UPLOADS):
            links: list[Link] = []
            small: list[Chunk] = []
            content.seek(start)
            for batch in weights.batches(_cut(content), _BATCH_CHUNKS):
                if not links and weights.are_small(batch):
                    small = batch
                else:
                    weights.upload(self._database, batch)
                links += list_chunks(_MANIFEST, batch).links
            if write(self._database, _name, artifact_id, links, small):
                return
        raise StorageError(
            f"Artifact {artifact_id!r} was collected {_MOST_UPLOADS} times before it was whole. "
            "Collect garbage less often."
        )


class _Reader(io.RawIOBase):
    """Reads chunks, and checks them; some ahead where they are read one after the other."""

    def __init__(self, database: Database, artifact_id: str, links: Sequence[Link]) -> None:
        super().__init__()
        self._database = database
        self._owner = f"artifact {artifact_id!r}"
        self._links = links
        self._position = 0
        self.n_bytes = sum(link.n_bytes for link in links)
        self._held: dict[int, memoryview] = {}
        self._n_ahead = 1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.n_bytes}
        self._position = max(0, starts[whence] + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        if self._position >= self.n_bytes or not len(target):
            return 0
        # All chunks but the last have the same size.
        index, start = divmod(self._position, CHUNK_BYTES)
        if start == 0 and len(target) >= 2 * CHUNK_BYTES:
            n_read = self._fill(index, target)
        else:
            part = self._chunk(index)[start : start + len(target)]
            target[: len(part)] = part
            n_read = len(part)
        self._position += n_read
        return n_read

    def _fill(self, index: int, target: memoryview) -> int:
        """Read whole chunks to where they are wanted; how many bytes."""
        n_chunks = min(len(target) // CHUNK_BYTES, _BATCH_CHUNKS)
        links = self._links[index : index + n_chunks]
        return read(self._database, _copy_payloads, self._owner, index, links, target)

    def _chunk(self, index: int) -> memoryview:
        if index not in self._held:
            # Twice as many at a time as long as the file is read in order.
            follows = index - 1 in self._held
            self._n_ahead = min(2 * self._n_ahead, _BATCH_CHUNKS) if follows else 1
            links = self._links[index : index + self._n_ahead]
            payloads = read(self._database, _payloads, links)
            self._held = {
                position: check_chunk(self._owner, position, link, payload)
                for position, link, payload in zip(count(index), links, payloads, strict=False)
            }
        return self._held[index]


class _Buffered(io.BufferedReader):
    """Small reads are served from a chunk; large ones go to where they are wanted."""

    def __init__(self, reader: _Reader) -> None:
        super().__init__(reader, CHUNK_BYTES)
        self._reader = reader

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            # All at once: without a size it would come in pieces that are put together.
            size = max(0, self._reader.n_bytes - self.tell())
        return super().read(size)


def _cut(content: BinaryIO) -> Iterator[Chunk]:
    while part := _read_exactly(content, CHUNK_BYTES):
        yield Chunk(digest_of(part), memoryview(part))


def _read_exactly(content: BinaryIO, n_bytes: int) -> bytes:
    """A full chunk, or the rest; a raw stream may give less than it is asked for."""
    parts: list[bytes] = []
    while n_bytes and (part := content.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _links(connection: sa.Connection, artifact_id: str) -> tuple[Link, ...] | None:
    digest = connection.scalar(_digest_of(artifact_id))
    if digest is None:
        return None
    return weights.read_listing(connection, digest, f"artifact {artifact_id!r}").links


def _payloads(connection: sa.Connection, links: Sequence[Link]) -> list[bytes | memoryview | None]:
    return [payload for _, _, payload in weights.read_chunks(connection, links)]


def _copy_payloads(
    connection: sa.Connection, owner: str, index: int, links: Sequence[Link], target: memoryview
) -> int:
    start = 0
    for position, link, payload in weights.read_chunks(connection, links):
        part = check_chunk(owner, index + position, link, payload)
        target[start : start + len(part)] = part
        start += len(part)
    return start


def _name(
    connection: sa.Connection, artifact_id: str, links: list[Link], small: list[Chunk]
) -> bool:
    """Make chunks an artifact: few ones, or those uploaded; False if some were collected since."""
    uploaded = {link.chunk for link in links}.difference(one.digest for one in small)
    if weights.missing_chunks(connection, uploaded):
        return False
    weights.insert_chunks(connection, small)
    digest = snapshot_digest(_MANIFEST, (link.chunk for link in links))
    n_bytes = sum(link.n_bytes for link in links)
    weights.insert_snapshots(connection, [Listing(digest, _MANIFEST, n_bytes, tuple(links))])
    values = {"snapshot": digest, "created_at": now_seconds()}
    if connection.scalar(_digest_of(artifact_id)) is None:
        connection.execute(sa.insert(artifact).values(artifact_id=artifact_id, **values))
    else:
        is_mine = artifact.c.artifact_id == artifact_id
        connection.execute(sa.update(artifact).where(is_mine).values(**values))
    return True


def _remove(connection: sa.Connection, artifact_id: str) -> bool:
    result = connection.execute(sa.delete(artifact).where(artifact.c.artifact_id == artifact_id))
    return result.rowcount == 1


def _digest_of(artifact_id: str) -> sa.Select[str]:
    return sa.select(artifact.c.snapshot).where(artifact.c.artifact_id == artifact_id)
