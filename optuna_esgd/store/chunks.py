"""Snapshots cut into chunks that are named by what is in them.

The same bytes have the same name and are stored once; whatever is read is checked against its
name. xxh3-128 finds damage, it does not keep out forgers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import xxhash

from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.errors import ConfigurationError, CorruptionError

MOST_MANIFEST_BYTES = 2**24  # more than a hundred thousand tensors
_SMALL_MANIFEST_BYTES = 2**16
CHUNK_BYTES = 2**20  # measured: best or equal everywhere; 16 MiB breaks MariaDB's packet limit


@dataclass(frozen=True)
class Chunk:
    """At most ``CHUNK_BYTES`` of a payload and their digest; the bytes are not copied."""

    digest: str
    payload: memoryview


@dataclass(frozen=True)
class Link:
    """One chunk of a snapshot, as listed in the store: its digest and its size."""

    chunk: str
    n_bytes: int


@dataclass(frozen=True)
class Listing:
    """Everything of a snapshot but its bytes.

    Attributes:
        digest: The snapshot's name.
        manifest: What its payload is made of.
        n_bytes: Size of the payload.
        links: The payload's chunks, in order.
    """

    digest: str
    manifest: bytes
    n_bytes: int
    links: tuple[Link, ...]


@dataclass(frozen=True)
class PackedSnapshot:
    """A snapshot ready to be stored."""

    listing: Listing
    chunks: tuple[Chunk, ...]


def digest_of(payload: bytes | bytearray | memoryview) -> str:
    """The name of a chunk: 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(payload)


def pack(snapshot: Snapshot) -> PackedSnapshot:
    """Cut a snapshot into chunks.

    Raises:
        ConfigurationError: Manifest and payload do not belong together, or the manifest is larger
            than anybody would read.
    """
    if len(snapshot.manifest) > MOST_MANIFEST_BYTES:
        raise ConfigurationError(
            f"A snapshot's manifest can have {MOST_MANIFEST_BYTES} bytes, got "
            f"{len(snapshot.manifest)}: too many tensors, or names too long."
        )
    payload = memoryview(snapshot.payload).cast("B")
    expected = payload_size(snapshot.manifest)
    if expected != len(payload):
        raise ConfigurationError(
            f"A snapshot's manifest must describe its payload: it speaks of {expected} bytes, "
            f"the payload has {len(payload)}."
        )
    chunks = tuple(
        Chunk(digest_of(part), part)
        for part in (payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES))
    )
    return PackedSnapshot(list_chunks(bytes(snapshot.manifest), chunks), chunks)


def list_chunks(manifest: bytes, chunks: Iterable[Chunk]) -> Listing:
    """The listing of a snapshot that is made of these chunks."""
    links = tuple(Link(chunk.digest, len(chunk.payload)) for chunk in chunks)
    return Listing(
        digest=snapshot_digest(manifest, (link.chunk for link in links)),
        manifest=manifest,
        n_bytes=sum(link.n_bytes for link in links),
        links=links,
    )


def snapshot_digest(manifest: bytes, chunk_digests: Iterable[str]) -> str:
    """The name of a snapshot: over its manifest (with its length) and its chunks' names."""
    digest = xxhash.xxh3_128(len(manifest).to_bytes(8, "little"))
    digest.update(manifest)
    for chunk_digest in chunk_digests:
        digest.update(chunk_digest.encode("ascii"))
    return digest.hexdigest()


def payload_size(manifest: bytes) -> int:
    """Bytes of the payload that a manifest (a safetensors header) describes; -1 if it is none."""
    size = _payload_size if len(manifest) <= _SMALL_MANIFEST_BYTES else _payload_size.__wrapped__
    return size(bytes(manifest))


@lru_cache(maxsize=64)
def _payload_size(manifest: bytes) -> int:
    """Remembered: all snapshots of a model, and states of a species, have few manifests."""
    try:
        header = json.loads(manifest)
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
        return max((int(end) for end in ends), default=0)
    except (ArithmeticError, LookupError, RecursionError, AttributeError, TypeError, ValueError):
        return -1


def check_listing(owner: str, listing: Listing) -> None:
    """Check what is listed of a snapshot before memory for it is allocated.

    Args:
        owner: Whose it is, for messages.
        listing: As stored.

    Raises:
        CorruptionError: It does not fit together.
    """
    links = listing.links
    if snapshot_digest(listing.manifest, (link.chunk for link in links)) != listing.digest:
        raise CorruptionError(
            f"The manifest or the list of chunks of {owner} does not match its digest "
            f"{listing.digest}; other individuals are not affected."
        )
    described, linked = payload_size(listing.manifest), sum(link.n_bytes for link in links)
    if not described == listing.n_bytes == linked or not are_cut_right(links):
        raise CorruptionError(
            f"The sizes stored for {owner} contradict each other: its manifest says {described} "
            f"bytes, its snapshot {listing.n_bytes}, its {len(links)} chunks {linked}."
        )


def are_cut_right(links: Sequence[Link]) -> bool:
    """Whether all chunks but the last are full, and the last one is not empty."""
    return all(link.n_bytes == CHUNK_BYTES for link in links[:-1]) and all(
        0 < link.n_bytes <= CHUNK_BYTES for link in links[-1:]
    )


def check_chunk(
    owner: str, position: int, link: Link, payload: bytes | bytearray | memoryview | None
) -> memoryview:
    """Check the bytes of one chunk.

    Raises:
        CorruptionError: They are missing or damaged; says which chunk, of whom.
    """
    name = f"Chunk {link.chunk} (number {position}) of {owner}"
    if payload is None:
        raise CorruptionError(
            f"{name} is missing, or larger than a chunk can be; other individuals are not "
            "affected."
        )
    view = memoryview(payload).cast("B")
    found = digest_of(view)
    if len(view) != link.n_bytes or found != link.chunk:
        raise CorruptionError(
            f"{name} is damaged: expected {link.n_bytes} bytes with digest {link.chunk}, got "
            f"{len(view)} bytes with digest {found}. Individuals without this chunk are not "
            "affected; run `optuna-esgd verify` to list what is."
        )
    return view
