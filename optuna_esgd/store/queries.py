"""Reading individuals and slots by the beginning of their key."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import Slot, SlotKey
from optuna_esgd.store.rows import has_key, slot_columns, slot_of
from optuna_esgd.store.tables import individual, slot


def select_individuals(study_uuid: str, *key: int) -> sa.Select[Any]:
    """All individuals whose (generation, round, number) begins so, ordered by it."""
    return (
        sa.select(individual)
        .where(has_key(individual, study_uuid, key))
        .order_by(individual.c.generation, individual.c.round, individual.c.number)
    )


def read_slots(connection: sa.Connection, study_uuid: str, *key: int) -> tuple[Slot, ...]:
    """All slots whose (generation, round, cohort) begins so, ordered by it."""
    query = (
        sa.select(*slot_columns())
        .where(has_key(slot, study_uuid, key))
        .order_by(slot.c.generation, slot.c.round, slot.c.cohort)
    )
    return tuple(map(slot_of, connection.execute(query)))


def read_finish_order(connection: sa.Connection, study_uuid: str) -> tuple[SlotKey, ...]:
    """The finished slots, in the order they finished by the database's clock; equals by key."""
    key = (slot.c.generation, slot.c.round, slot.c.cohort)
    query = (
        sa.select(*key)
        .where(slot.c.study_uuid == study_uuid, slot.c.state == "finished")
        .order_by(slot.c.finished_at, *key)
    )
    return tuple(SlotKey(*row) for row in connection.execute(query))
