"""Slots in SQL: claimed by compare-and-set, fenced by the attempt's number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import Claim, Slot, SlotKey
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.rows import has_key, slot_columns, slot_of
from optuna_esgd.store.tables import slot

# Slots that a claim looks at together: more than there are workers who pass each other by.
_N_KEYS = 32


def claim(
    connection: sa.Connection,
    study_uuid: str,
    keys: Sequence[SlotKey],
    *,
    worker: str,
    lease_seconds: float,
) -> Slot | None:
    """Take the first of these slots that is free or whose lease has run out, or None."""
    values = {
        "state": "claimed",
        "attempt": slot.c.attempt + 1,
        "worker": worker,
        "lease_until": now_seconds() + lease_seconds,
        "claimed_at": now_seconds(),
    }
    for some in _alike(keys):
        found = _update_first(connection, study_uuid, some, values)
        if found is not None:
            return found
    return None


def _alike(keys: Sequence[SlotKey]) -> Iterator[list[SlotKey]]:
    """The keys in order, in lists of one round and one length, so that statements are alike.

    Each is then prepared once; and a statement that names hundreds of slots is slower than the
    whole claim. What is missing in a list is filled up with its last key.
    """
    for _, group in itertools.groupby(sorted(keys), key=lambda key: key[:2]):
        ordered = list(group)
        for start in range(0, len(ordered), _N_KEYS):
            some = ordered[start : start + _N_KEYS]
            yield some if len(some) == 1 else [*some, *[some[-1]] * (_N_KEYS - len(some))]


def _update_first(
    connection: sa.Connection,
    study_uuid: str,
    keys: Sequence[SlotKey],
    values: Mapping[str, Any],
) -> Slot | None:
    """Give the first claimable slot of one round these values; the slot after that, or None."""
    is_claimable = sa.or_(
        slot.c.state == "free",
        sa.and_(slot.c.state == "claimed", slot.c.lease_until < now_seconds()),
    )
    in_round = has_key(slot, study_uuid, keys[0][:2])
    # Who is claiming one right now is passed by: so workers do not queue for the same slot.
    first = (
        sa.select(slot.c.cohort)
        .where(in_round, slot.c.cohort.in_([key.cohort for key in keys]), is_claimable)
        .order_by(slot.c.cohort)
        .limit(1)
        .with_for_update(skip_locked=_can_skip_locked(connection))
    )
    if connection.dialect.update_returning:
        update = sa.update(slot).where(in_round, slot.c.cohort == first.scalar_subquery())
        query = update.values(**values).returning(*slot_columns())
        row = connection.execute(query).one_or_none()
        return None if row is None else slot_of(row)
    cohort = connection.scalar(first)
    if cohort is None:
        return None
    key = SlotKey(*keys[0][:2], cohort)
    is_mine = _update(connection, sa.and_(has_key(slot, study_uuid, key), is_claimable), **values)
    return _read(connection, study_uuid, key) if is_mine else None


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
