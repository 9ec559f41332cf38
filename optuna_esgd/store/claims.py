"""Slots in SQL: claimed by compare-and-set, fenced by the attempt's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import Claim, Slot, SlotKey
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.rows import has_key, is_one_of, slot_columns, slot_of
from optuna_esgd.store.tables import slot


def claim(
    connection: sa.Connection,
    study_uuid: str,
    keys: Sequence[SlotKey],
    *,
    worker: str,
    lease_seconds: float,
) -> Slot | None:
    """Take the first of these slots that is free or whose lease has run out, or None."""
    is_claimable = sa.or_(
        slot.c.state == "free",
        sa.and_(slot.c.state == "claimed", slot.c.lease_until < now_seconds()),
    )
    # Who is claiming one right now is passed by: so workers do not queue for the same slot.
    row = connection.execute(
        sa.select(*slot_columns())
        .where(is_one_of(slot, study_uuid, keys), is_claimable)
        .order_by(slot.c.generation, slot.c.round, slot.c.cohort)
        .limit(1)
        .with_for_update(skip_locked=_can_skip_locked(connection))
    ).one_or_none()
    if row is None:
        return None
    found = slot_of(row)
    is_mine = _update(
        connection,
        sa.and_(has_key(slot, study_uuid, found.key), slot.c.attempt == found.attempt),
        state="claimed",
        attempt=found.attempt + 1,
        worker=worker,
        lease_until=now_seconds() + lease_seconds,
        claimed_at=now_seconds(),
    )
    if not is_mine:
        return None
    return replace(found, state="claimed", is_claimable=False, attempt=found.attempt + 1)


def is_claimed_by(
    connection: sa.Connection, study_uuid: str, made: Slot | None, *, worker: str
) -> bool:
    """Whether a claim stands whose commit may have failed, or only its answer got lost."""
    if made is None:
        return False
    mine = _is_held(study_uuid, Claim(slot=made, attempt=made.attempt, worker=worker))
    found = connection.scalar(sa.select(slot.c.attempt).where(mine, slot.c.worker == worker))
    return found is not None


def renew(
    connection: sa.Connection, study_uuid: str, held: Claim, *, lease_seconds: float
) -> bool:
    """Prolong the lease; also one that has run out, as long as nobody has taken the slot."""
    until = now_seconds() + lease_seconds
    if _update(connection, _is_held(study_uuid, held), lease_until=until):
        return True
    # Some drivers count changed rows, not found ones: the lease may end at that moment already.
    found = connection.scalar(sa.select(slot.c.attempt).where(_is_held(study_uuid, held)))
    return found is not None


def release(
    connection: sa.Connection, study_uuid: str, held: Claim, *, failure: str | None
) -> bool:
    """Give the slot back, with a failure or without."""
    values: dict[str, Any] = {"state": "free", "worker": "", "lease_until": None}
    if failure is not None:
        values |= {"n_failures": slot.c.n_failures + 1, "failure": failure}
    return _update(connection, _is_held(study_uuid, held), **values)


def finish(connection: sa.Connection, study_uuid: str, held: Claim) -> bool:
    """Close the slot; from here to the commit nobody else can."""
    return _update(
        connection,
        _is_held(study_uuid, held),
        state="finished",
        lease_until=None,
        finished_at=now_seconds(),
    )


def is_held(connection: sa.Connection, study_uuid: str, held: Claim) -> bool:
    """Whether nobody has taken the slot since."""
    found = connection.scalar(sa.select(slot.c.attempt).where(_is_held(study_uuid, held)))
    return found is not None


def was_finished_by(connection: sa.Connection, study_uuid: str, held: Claim) -> bool:
    """Whether this very claim finished the slot, perhaps in a commit whose answer got lost."""
    current = _read(connection, study_uuid, held.slot.key)
    return current is not None and current.state == "finished" and current.attempt == held.attempt


def _can_skip_locked(connection: sa.Connection) -> bool:
    """Whether the server knows SKIP LOCKED; SQLite, where only one writes, leaves it out."""
    dialect = connection.dialect
    if dialect.name not in ("mysql", "mariadb"):
        return True
    version = dialect.server_version_info or ()
    return version >= ((10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0, 1))


def _update(connection: sa.Connection, condition: sa.ColumnElement[bool], **values: Any) -> bool:
    result = connection.execute(sa.update(slot).where(condition).values(**values))
    return result.rowcount == 1


def _is_held(study_uuid: str, held: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(
        has_key(slot, study_uuid, held.slot.key),
        slot.c.state == "claimed",
        slot.c.attempt == held.attempt,
    )


def _read(connection: sa.Connection, study_uuid: str, key: SlotKey) -> Slot | None:
    query = sa.select(*slot_columns()).where(has_key(slot, study_uuid, key))
    row = connection.execute(query).one_or_none()
    return None if row is None else slot_of(row)
