"""Which trial shows which individual, and which running trials somebody still stands by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.rows import begins_with_key, has_key, individual_of, key_parameters
from optuna_esgd.store.statements import execute_many
from optuna_esgd.store.tables import individual, trial
from optuna_esgd.store.weights import batches

_MOST_NUMBERS = 500  # in one statement
# Finished individuals without a trial, and without anyone about to show them.
_UNSHOWN = (
    sa.select(individual)
    # A literal: a planner that does not see the 0 cannot use the partial index.
    .where(
        individual.c.study_uuid == sa.bindparam("uuid"),
        individual.c.round == sa.literal_column("0"),
    )
    .where(individual.c.finished, individual.c.trial_number.is_(None))
    .where(
        sa.or_(
            individual.c.shown_until.is_(None),
            sa.not_(individual.c.shown_until >= now_seconds()),
        )
    )
    .order_by(individual.c.generation, individual.c.number)
)
_FIRST_UNSHOWN, _LOCK_UNSHOWN = _UNSHOWN.limit(1), _UNSHOWN.with_for_update()
_SHOW = (
    sa.update(individual)
    .where(begins_with_key(individual, 3))
    .values(trial_number=sa.bindparam("shown_by"))
)


def of_trial(connection: sa.Connection, study_uuid: str, trial_number: int) -> Individual | None:
    """The individual a trial shows."""
    query = sa.select(individual).where(
        individual.c.study_uuid == study_uuid, individual.c.trial_number == trial_number
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else individual_of(row)


def assign(connection: sa.Connection, study_uuid: str, trial_number: int) -> Individual | None:
    """Give a trial the first finished individual that nobody shows."""
    given = of_trial(connection, study_uuid, trial_number)
    while given is None:
        row = connection.execute(_FIRST_UNSHOWN, {"uuid": study_uuid}).one_or_none()
        if row is None:
            return None
        one = individual_of(row)
        if _show(connection, study_uuid, one.reference, trial_number):
            given = replace(one, trial_number=trial_number)
    return given


def lock_unshown(connection: sa.Connection, study_uuid: str) -> list[Individual]:
    """The finished individuals that nobody shows; nobody else can until this transaction ends."""
    return list(map(individual_of, connection.execute(_LOCK_UNSHOWN, {"uuid": study_uuid})))


def show(connection: sa.Connection, study_uuid: str, numbers: Mapping[Reference, int]) -> None:
    """Bind individuals, locked and without a trial, to these trials."""
    rows = [
        {**key_parameters(study_uuid, one), "shown_by": number} for one, number in numbers.items()
    ]
    execute_many(connection, _SHOW, rows)


def bind(
    connection: sa.Connection, study_uuid: str, reference: Reference, trial_number: int
) -> bool:
    """Give a trial this individual; False if either has another."""
    shown = of_trial(connection, study_uuid, trial_number)
    if shown is not None:
        return shown.reference == reference
    return _show(connection, study_uuid, reference, trial_number)


def reserve(
    connection: sa.Connection, study_uuid: str, lease_seconds: float, most: int | None
) -> tuple[Individual, ...]:
    """Reserve finished individuals that nobody shows or is about to show."""
    query = _UNSHOWN.limit(most)
    found = map(individual_of, connection.execute(query, {"uuid": study_uuid}))
    return tuple(
        one for one in found if _reserve(connection, study_uuid, one.reference, lease_seconds)
    )


def show_any(connection: sa.Connection, study_uuid: str, trial_numbers: Collection[int]) -> bool:
    """Whether one of these trials shows an individual."""
    return any(
        connection.scalar(sa.select(individual.c.number).where(is_shown).limit(1)) is not None
        for is_shown in _are_shown(study_uuid, trial_numbers)
    )


def unassign(connection: sa.Connection, study_uuid: str, trial_numbers: Collection[int]) -> int:
    """Let other trials show what these cannot; returns how many individuals are free again."""
    n_freed = 0
    for is_shown in _are_shown(study_uuid, trial_numbers):
        result = connection.execute(
            sa.update(individual).where(is_shown).values(trial_number=None, shown_until=None)
        )
        n_freed += result.rowcount
    return n_freed


def _are_shown(
    study_uuid: str, trial_numbers: Collection[int]
) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions, for some trials each, on the individuals they show."""
    for batch in batches(sorted(trial_numbers), _MOST_NUMBERS):
        yield sa.and_(individual.c.study_uuid == study_uuid, individual.c.trial_number.in_(batch))


def renew(
    connection: sa.Connection,
    study_uuid: str,
    trial_numbers: Sequence[int],
    *,
    lease_seconds: float,
) -> None:
    """Stand by running trials for another while, also by those never seen before."""
    for number in trial_numbers:
        until = now_seconds() + lease_seconds
        key = has_key(trial, study_uuid, (number,))
        if connection.execute(sa.update(trial).where(key).values(lease_until=until)).rowcount:
            continue
        # Some drivers count changed rows, not found ones.
        if connection.scalar(sa.select(trial.c.number).where(key)) is None:
            _insert(connection, study_uuid, number, lease_seconds)


def leases(connection: sa.Connection, study_uuid: str) -> dict[int, bool]:
    """Number -> whether its lease has run out, of the trials that somebody stood by."""
    query = (
        sa.select(trial.c.number, (trial.c.lease_until < now_seconds()).label("is_over"))
        .where(trial.c.study_uuid == study_uuid)
        .order_by(trial.c.number)
    )
    return {row.number: bool(row.is_over) for row in connection.execute(query)}


def lost(
    connection: sa.Connection,
    study_uuid: str,
    running: Collection[int],
    *,
    lease_seconds: float,
) -> tuple[int, ...]:
    """Which of the running trials nobody stands by any more.

    A trial seen for the first time has one lease to be heard of. Rows of other trials are
    deleted: they have ended.
    """
    known = leases(connection, study_uuid)
    for batch in batches(sorted(known.keys() - set(running)), _MOST_NUMBERS):
        is_ended = sa.and_(trial.c.study_uuid == study_uuid, trial.c.number.in_(batch))
        connection.execute(sa.delete(trial).where(is_ended))
    for number in sorted(set(running) - known.keys()):
        _insert(connection, study_uuid, number, lease_seconds)
    return tuple(number for number in sorted(running) if known.get(number, False))


def _insert(connection: sa.Connection, study_uuid: str, number: int, lease_seconds: float) -> None:
    until = now_seconds() + lease_seconds
    values: dict[str, Any] = {"study_uuid": study_uuid, "number": number, "lease_until": until}
    connection.execute(sa.insert(trial).values(values))


def _reserve(
    connection: sa.Connection, study_uuid: str, reference: Reference, lease_seconds: float
) -> bool:
    is_free = sa.or_(individual.c.shown_until.is_(None), individual.c.shown_until < now_seconds())
    result = connection.execute(
        sa.update(individual)
        .where(has_key(individual, study_uuid, reference))
        .where(individual.c.trial_number.is_(None), is_free)
        .values(shown_until=now_seconds() + lease_seconds)
    )
    return result.rowcount == 1


def _show(
    connection: sa.Connection, study_uuid: str, reference: Reference, trial_number: int
) -> bool:
    result = connection.execute(
        sa.update(individual)
        .where(has_key(individual, study_uuid, reference))
        .where(individual.c.trial_number.is_(None))
        .values(trial_number=trial_number)
    )
    return result.rowcount == 1
