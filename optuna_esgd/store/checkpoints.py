"""Checkpoints in SQL: one a slot, written by whoever holds it."""

from __future__ import annotations

import sqlalchemy as sa

from optuna_esgd.engine.individual import Claim, SlotKey
from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.store import claims, weights
from optuna_esgd.store.chunks import PackedSnapshot
from optuna_esgd.store.rows import begins_with_key, key_parameters
from optuna_esgd.store.tables import checkpoint

_SNAPSHOT = sa.select(checkpoint.c.snapshot).where(begins_with_key(checkpoint, 3))
_DELETE = sa.delete(checkpoint).where(begins_with_key(checkpoint, 3))


def save(
    connection: sa.Connection,
    study_uuid: str,
    held: Claim,
    packed: PackedSnapshot,
    *,
    lease_seconds: float,
) -> bool | None:
    """Replace the slot's checkpoint; False if the claim is lost, None if chunks are missing.

    The lease is prolonged as well: that locks the slot until the checkpoint is written.
    """
    is_small = weights.are_small(packed.chunks)
    digests = {one.digest for one in packed.chunks}
    if not is_small and weights.missing_chunks(connection, digests):
        return None
    if not claims.renew(connection, study_uuid, held, lease_seconds=lease_seconds):
        return False
    if is_small:
        weights.insert_chunks(connection, packed.chunks)
    weights.insert_snapshots(connection, [packed.listing])
    key = held.slot.key
    delete(connection, study_uuid, key)
    row = {"study_uuid": study_uuid, **key._asdict(), "snapshot": packed.listing.digest}
    connection.execute(sa.insert(checkpoint).values(row))
    return True


def read(connection: sa.Connection, study_uuid: str, key: SlotKey) -> Snapshot | None:
    """The slot's checkpoint, every byte checked."""
    digest = connection.scalar(_SNAPSHOT, key_parameters(study_uuid, key))
    if digest is None:
        return None
    return weights.read_snapshot(connection, digest, f"the checkpoint of {key}")


def delete(connection: sa.Connection, study_uuid: str, key: SlotKey) -> None:
    """Forget the slot's checkpoint."""
    connection.execute(_DELETE, key_parameters(study_uuid, key))
