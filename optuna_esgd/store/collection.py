"""Garbage: what of a population is needed, and how the rest goes away while others write.

Writers never ask the collector. The keys from individuals to snapshots and from snapshots to
chunks refuse to let go of what has just been used; the transaction that loses is run again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import sqlalchemy as sa

from optuna_esgd.engine.individual import Individual
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.engines import Database
from optuna_esgd.store.rows import has_key, individual_of
from optuna_esgd.store.tables import artifact, checkpoint, chunk, individual, link, snapshot
from optuna_esgd.store.transactions import read, write
from optuna_esgd.store.weights import batches

_TRANSACTION_ROWS = 64
GRACE_SECONDS = 3600.0


# Which individuals of a population may be let go of, as a condition on their rows.
IsOld: TypeAlias = Callable[[sa.Connection, str], sa.ColumnElement[bool]]


def collect(
    database: Database,
    study_uuid: str,
    is_old: IsOld,
    *,
    keeps_states: bool,
    grace_seconds: float = GRACE_SECONDS,
) -> int:
    """Let go of what a population no longer needs, and delete what nobody refers to.

    Args:
        database: Where.
        study_uuid: Which population.
        is_old: Its rule; the best individual and pinned ones keep their weights all the same.
        keeps_states: Whether they keep their optimizer states as well: where plans may be late,
            somebody may still be bred from them.
        grace_seconds: See ``sweep``.

    Returns:
        Payload bytes freed.
    """
    write(database, _let_go, study_uuid, is_old, keeps_states)
    return sweep(database, grace_seconds=grace_seconds)


def sweep(database: Database, *, grace_seconds: float = GRACE_SECONDS) -> int:
    """Delete snapshots and chunks that nobody refers to, whoever stored them.

    A snapshot is stored together with its first user: one without users, and its chunks, can go
    at once. A chunk that was never used may be on its way: it has ``grace_seconds`` to arrive.

    Returns:
        Payload bytes freed.
    """
    candidates = set(read(database, _unused_chunks, grace_seconds))
    for batch in batches(read(database, _unused_snapshots), _TRANSACTION_ROWS):
        candidates |= write(database, _delete_snapshots, batch)
    return sum(
        write(database, _delete_chunks, batch)
        for batch in batches(sorted(candidates), _TRANSACTION_ROWS)
    )


def best(connection: sa.Connection, study_uuid: str) -> Individual | None:
    """The stored individual with the lowest fitness; see ``Population.best``."""
    query = (
        sa.select(individual)
        .where(individual.c.study_uuid == study_uuid, individual.c.weights.is_not(None))
        .order_by(
            individual.c.diverged,
            individual.c.fitness,
            individual.c.generation,
            individual.c.round,
            individual.c.number,
        )
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else individual_of(row)


def stored_bytes(connection: sa.Connection, study_uuid: str) -> int:
    """Payload bytes of the chunks that a population refers to, each counted once."""
    mine = individual.c.study_uuid == study_uuid
    snapshots = sa.union(
        sa.select(individual.c.weights).where(mine, individual.c.weights.is_not(None)),
        sa.select(individual.c.optimizer_state).where(
            mine, individual.c.optimizer_state.is_not(None)
        ),
        sa.select(checkpoint.c.snapshot).where(checkpoint.c.study_uuid == study_uuid),
    ).subquery()
    chunks = sa.select(link.c.chunk).where(link.c.snapshot.in_(sa.select(snapshots.c[0])))
    total = connection.scalar(
        sa.select(sa.func.sum(chunk.c.n_bytes)).where(chunk.c.digest.in_(chunks))
    )
    return int(total or 0)


def _let_go(
    connection: sa.Connection, study_uuid: str, is_old_of: IsOld, keeps_states: bool
) -> None:
    is_old = sa.and_(individual.c.study_uuid == study_uuid, is_old_of(connection, study_uuid))
    one = best(connection, study_uuid)
    is_best = sa.false() if one is None else has_key(individual, study_uuid, one.reference)
    is_free = sa.and_(is_old, sa.not_(individual.c.pinned), sa.not_(is_best))
    connection.execute(
        sa.update(individual)
        .where(is_free if keeps_states else is_old, individual.c.optimizer_state.is_not(None))
        .values(optimizer_state=None)
    )
    connection.execute(
        sa.update(individual)
        .where(is_free, individual.c.weights.is_not(None))
        .values(weights=None)
    )


def _unused_snapshots(connection: sa.Connection) -> list[str]:
    return sorted(connection.scalars(_UNUSED_SNAPSHOTS))


def _unused_chunks(connection: sa.Connection, grace_seconds: float) -> list[str]:
    return sorted(connection.scalars(_UNUSED_CHUNKS, {"grace_seconds": grace_seconds}))


def _is_unused_snapshot() -> sa.ColumnElement[bool]:
    users = (
        individual.c.weights,
        individual.c.optimizer_state,
        checkpoint.c.snapshot,
        artifact.c.snapshot,
    )
    return sa.and_(
        *(~sa.exists().where(user == snapshot.c.digest).correlate(snapshot) for user in users)
    )


def _is_unused_chunk() -> sa.ColumnElement[bool]:
    return ~sa.exists().where(link.c.chunk == chunk.c.digest).correlate(chunk)


def _delete_snapshots(connection: sa.Connection, digests: list[str]) -> set[str]:
    """Delete those that are still unused; the chunks they were made of."""
    found = set(connection.scalars(_CHUNKS_OF, {"digests": digests}))
    connection.execute(_DELETE_SNAPSHOTS, {"digests": digests})
    return found


def _delete_chunks(connection: sa.Connection, digests: list[str]) -> int:
    n_bytes = connection.scalar(_BYTES_OF_UNUSED, {"digests": digests})
    connection.execute(_DELETE_CHUNKS, {"digests": digests})
    return int(n_bytes or 0)


_DIGESTS: sa.BindParameter[Any] = sa.bindparam("digests", expanding=True)
_UNUSED_SNAPSHOTS = sa.select(snapshot.c.digest).where(_is_unused_snapshot())
_UNUSED_CHUNKS = sa.select(chunk.c.digest).where(
    _is_unused_chunk(),
    chunk.c.created_at <= now_seconds() - sa.bindparam("grace_seconds", type_=sa.Double),
)
_CHUNKS_OF = sa.select(link.c.chunk).where(link.c.snapshot.in_(_DIGESTS))
_DELETE_SNAPSHOTS = sa.delete(snapshot).where(
    snapshot.c.digest.in_(_DIGESTS), _is_unused_snapshot()
)
_ARE_UNUSED = sa.and_(chunk.c.digest.in_(_DIGESTS), _is_unused_chunk())
_BYTES_OF_UNUSED = sa.select(sa.func.sum(chunk.c.n_bytes)).where(_ARE_UNUSED)
_DELETE_CHUNKS = sa.delete(chunk).where(_ARE_UNUSED)
