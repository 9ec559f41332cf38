"""Asynchronous populations in SQL: what each place needs, and what no place needs any more."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import NO_FACTS, Facts, Individual, Reference, Slot
from optuna_esgd.engine.places import facts_by_place
from optuna_esgd.store.rows import (
    begins_with_key,
    individual_of,
    is_one_of,
    key_parameters,
    slot_columns,
    slot_of,
)
from optuna_esgd.store.tables import individual, slot, study

_LOCKED = sa.select(study.c.uuid).where(study.c.uuid == sa.bindparam("wanted")).with_for_update()
_COLLECTED = (
    sa.select(individual.c.number)
    .where(
        begins_with_key(individual, 2),
        individual.c.number.in_(sa.bindparam("numbers", expanding=True)),
    )
    .where(individual.c.weights_digest.is_not(None), individual.c.weights.is_(None))
    .limit(1)
)


def read_facts(connection: sa.Connection, study_uuid: str, before: Facts) -> Facts:
    """Every place's own facts, see ``engine.places``; who is the same as before is not read."""
    return facts_by_place(
        _latest_slots(connection, study_uuid),
        partial(_find, connection, study_uuid),
        before=before,
    )


def lock_plans(connection: sa.Connection, study_uuid: str) -> bool:
    """Keep others from planning, and from collecting garbage, until this transaction ends.

    Whoever plans builds on weights that whoever collects might let go of. SQLite needs no lock:
    there only one writes at a time.

    Returns:
        False if the population was deleted.
    """
    return connection.scalar(_LOCKED, {"wanted": study_uuid}) is not None


def is_old(connection: sa.Connection, study_uuid: str) -> sa.ColumnElement[bool]:
    """All that the facts do not speak of. Nobody can plan before this transaction ends."""
    lock_plans(connection, study_uuid)
    facts = read_facts(connection, study_uuid, NO_FACTS)
    return sa.not_(is_one_of(individual, study_uuid, [one.reference for one in facts.individuals]))


def were_collected(
    connection: sa.Connection, study_uuid: str, references: Collection[Reference]
) -> bool:
    """Whether weights of one of these were stored once, and are no longer."""
    rounds: dict[tuple[int, int], list[int]] = {}
    for generation, round_, number in sorted(references):
        rounds.setdefault((generation, round_), []).append(number)
    return any(
        connection.scalar(_COLLECTED, {**key_parameters(study_uuid, key), "numbers": numbers})
        is not None
        for key, numbers in rounds.items()
    )


def _latest_slots(connection: sa.Connection, study_uuid: str) -> list[Slot]:
    """All slots of the latest generation of each cohort."""
    return list(map(slot_of, connection.execute(_LATEST, {"uuid": study_uuid})))


def _find(
    connection: sa.Connection, study_uuid: str, references: Collection[Reference]
) -> list[Individual]:
    query = sa.select(individual).where(is_one_of(individual, study_uuid, references))
    return list(map(individual_of, connection.execute(query))) if references else []


def _select_latest() -> sa.Select[Any]:
    is_mine = slot.c.study_uuid == sa.bindparam("uuid")
    latest = (
        sa.select(slot.c.cohort, sa.func.max(slot.c.generation).label("generation"))
        .where(is_mine, slot.c.round == 0)
        .group_by(slot.c.cohort)
        .subquery()
    )
    is_latest = sa.and_(slot.c.cohort == latest.c.cohort, slot.c.generation == latest.c.generation)
    return sa.select(*slot_columns()).join(latest, is_latest).where(is_mine)


_LATEST = _select_latest()
