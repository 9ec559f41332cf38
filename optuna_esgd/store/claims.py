"""Slots in SQL: claimed by compare-and-set, fenced by the attempt's number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import Claim, Slot, SlotKey
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.queries import read_slots
from optuna_esgd.store.rows import begins_with_key, key_parameters, slot_columns, slot_of
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
    parameters = {"new_worker": worker, "lease_seconds": lease_seconds}
    for some in _alike(keys):
        found = _claim_first(connection, study_uuid, some, parameters)
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


def _claim_first(
    connection: sa.Connection,
    study_uuid: str,
    keys: Sequence[SlotKey],
    parameters: Mapping[str, Any],
) -> Slot | None:
    """Claim the first claimable slot of one round; the slot after that, or None."""
    in_round = key_parameters(study_uuid, keys[0][:2])
    can_skip = _can_skip_locked(connection)
    wanted = {**in_round, "cohorts": [key.cohort for key in keys]}
    if connection.dialect.update_returning:
        row = connection.execute(_claim_first_of(can_skip), {**wanted, **parameters}).one_or_none()
        return None if row is None else slot_of(row)
    cohort = connection.scalar(_first_of(can_skip), wanted)
    if cohort is None:
        return None
    key = SlotKey(*keys[0][:2], cohort)
    is_mine = _has_changed(connection, _CLAIM, {**key_parameters(study_uuid, key), **parameters})
    return _read(connection, study_uuid, key) if is_mine else None


def _claimable() -> sa.ColumnElement[bool]:
    return sa.or_(
        slot.c.state == "free",
        sa.and_(slot.c.state == "claimed", slot.c.lease_until < now_seconds()),
    )


@cache
def _first_of(can_skip_locked: bool) -> sa.Select[Any]:
    """Who is claiming one right now is passed by: so workers do not queue for the same slot."""
    return (
        sa.select(slot.c.cohort)
        .where(
            begins_with_key(slot, 2), slot.c.cohort.in_(sa.bindparam("cohorts", expanding=True))
        )
        .where(_claimable())
        .order_by(slot.c.cohort)
        .limit(1)
        .with_for_update(skip_locked=can_skip_locked)
    )


def _claiming() -> dict[str, Any]:
    return {
        "state": "claimed",
        "attempt": slot.c.attempt + 1,
        "worker": sa.bindparam("new_worker"),
        "lease_until": _lease_end(),
        "claimed_at": now_seconds(),
    }


@cache
def _claim_first_of(can_skip_locked: bool) -> sa.UpdateBase:
    first = _first_of(can_skip_locked).scalar_subquery()
    update = sa.update(slot).where(begins_with_key(slot, 2), slot.c.cohort == first)
    return update.values(**_claiming()).returning(*slot_columns())


def _lease_end() -> sa.ColumnElement[float]:
    return now_seconds() + sa.bindparam("lease_seconds", type_=sa.Double)


def is_claimed_by(
    connection: sa.Connection, study_uuid: str, made: Slot | None, *, worker: str
) -> bool:
    """Whether a claim stands whose commit may have failed, or only its answer got lost."""
    if made is None:
        return False
    held = _held(study_uuid, Claim(slot=made, attempt=made.attempt, worker=worker))
    return connection.scalar(_HOLDER, held) == worker


def renew(
    connection: sa.Connection, study_uuid: str, held: Claim, *, lease_seconds: float
) -> bool:
    """Prolong the lease; also one that has run out, as long as nobody has taken the slot."""
    parameters = {**_held(study_uuid, held), "lease_seconds": lease_seconds}
    if _has_changed(connection, _RENEW, parameters):
        return True
    # Some drivers count changed rows, not found ones: the lease may end at that moment already.
    return is_held(connection, study_uuid, held)


def release(
    connection: sa.Connection, study_uuid: str, held: Claim, *, failure: str | None
) -> bool:
    """Give the slot back, with a failure or without."""
    parameters = _held(study_uuid, held)
    if failure is None:
        return _has_changed(connection, _RELEASE, parameters)
    return _has_changed(connection, _RELEASE_FAILED, {**parameters, "new_failure": failure})


def finish(connection: sa.Connection, study_uuid: str, held: Claim) -> bool:
    """Close the slot; from here to the commit nobody else can."""
    return _has_changed(connection, _FINISH, _held(study_uuid, held))


def is_held(connection: sa.Connection, study_uuid: str, held: Claim) -> bool:
    """Whether nobody has taken the slot since."""
    return connection.scalar(_HOLDER, _held(study_uuid, held)) is not None


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


def _has_changed(
    connection: sa.Connection, update: sa.Update, parameters: Mapping[str, Any]
) -> bool:
    return connection.execute(update, parameters).rowcount == 1


def _held(study_uuid: str, held: Claim) -> dict[str, Any]:
    """What ``_IS_HELD`` asks for."""
    return {**key_parameters(study_uuid, held.slot.key), "held_attempt": held.attempt}


def _read(connection: sa.Connection, study_uuid: str, key: SlotKey) -> Slot | None:
    found = read_slots(connection, study_uuid, *key)
    return found[0] if found else None


_IS_HELD = sa.and_(
    begins_with_key(slot, 3),
    slot.c.state == "claimed",
    slot.c.attempt == sa.bindparam("held_attempt"),
)
_HOLDER = sa.select(slot.c.worker).where(_IS_HELD)
_CLAIM = sa.update(slot).where(begins_with_key(slot, 3), _claimable()).values(**_claiming())
_RENEW = sa.update(slot).where(_IS_HELD).values(lease_until=_lease_end())
_RELEASE = sa.update(slot).where(_IS_HELD).values(state="free", worker="", lease_until=None)
_RELEASE_FAILED = _RELEASE.values(
    n_failures=slot.c.n_failures + 1, failure=sa.bindparam("new_failure")
)
_FINISH = (
    sa.update(slot)
    .where(_IS_HELD)
    .values(state="finished", lease_until=None, finished_at=now_seconds())
)
