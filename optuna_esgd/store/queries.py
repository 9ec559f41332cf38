"""Reading individuals and slots by the beginning of their key."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import Individual, Slot, SlotKey
from optuna_esgd.store.rows import (
    begins_with_key,
    individual_of,
    key_parameters,
    slot_columns,
    slot_of,
)
from optuna_esgd.store.tables import individual, slot


def read_individuals(
    connection: sa.Connection, study_uuid: str, *key: int
) -> tuple[Individual, ...]:
    """All individuals whose (generation, round, number) begins so, ordered by it."""
    rows = connection.execute(select_individuals(len(key)), key_parameters(study_uuid, key))
    return tuple(map(individual_of, rows))


def read_slots(connection: sa.Connection, study_uuid: str, *key: int) -> tuple[Slot, ...]:
    """All slots whose (generation, round, cohort) begins so, ordered by it."""
    rows = connection.execute(_select_slots(len(key)), key_parameters(study_uuid, key))
    return tuple(map(slot_of, rows))


@cache
def select_individuals(n_parts: int) -> sa.Select[Any]:
    """Individuals by the first parts of their key, see ``key_parameters``."""
    return (
        sa.select(individual)
        .where(begins_with_key(individual, n_parts))
        .order_by(individual.c.generation, individual.c.round, individual.c.number)
    )


@cache
def _select_slots(n_parts: int) -> sa.Select[Any]:
    return (
        sa.select(*slot_columns())
        .where(begins_with_key(slot, n_parts))
        .order_by(slot.c.generation, slot.c.round, slot.c.cohort)
    )


def read_finish_order(connection: sa.Connection, study_uuid: str) -> tuple[SlotKey, ...]:
    """The finished slots, in the order they finished by the database's clock; equals by key."""
    key = (slot.c.generation, slot.c.round, slot.c.cohort)
    query = (
        sa.select(*key)
        .where(slot.c.study_uuid == study_uuid, slot.c.state == "finished")
        .order_by(slot.c.finished_at, *key)
    )
    return tuple(SlotKey(*row) for row in connection.execute(query))
