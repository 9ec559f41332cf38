"""What became of everybody, in three statements."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import Chronicle, SlotKey, Span
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.rows import individual_of, numbers_of
from optuna_esgd.store.tables import individual, slot


def read_chronicle(connection: sa.Connection, study_uuid: str, *, n_rounds: int) -> Chronicle:
    """Read a population's chronicle.

    Args:
        connection: In one snapshot.
        study_uuid: Which population.
        n_rounds: Evolution rounds per generation.
    """
    columns = individual.c
    people = (
        sa.select(individual)
        .where(columns.study_uuid == study_uuid)
        .where(sa.or_(columns.round < max(n_rounds, 1), columns.weights.is_not(None)))
        .order_by(columns.generation, columns.round, columns.number)
    )
    work = (
        sa.select(slot)
        .where(slot.c.study_uuid == study_uuid, slot.c.state != "free")
        .order_by(slot.c.generation, slot.c.round, slot.c.cohort)
    )
    return Chronicle(
        individuals=tuple(map(individual_of, connection.execute(people))),
        spans=tuple(map(_span_of, connection.execute(work))),
        read_at=float(connection.execute(sa.select(now_seconds())).scalar_one()),
    )


def _span_of(row: sa.Row[Any]) -> Span:
    return Span(
        key=SlotKey(row.generation, row.round, row.cohort),
        numbers=numbers_of(row.numbers),
        worker=row.worker,
        claimed_at=row.claimed_at,
        finished_at=row.finished_at if row.state == "finished" else None,
        lease_until=row.lease_until,
    )
