"""Populations with a barrier, in SQL: one generation at a time, everybody in it."""

from __future__ import annotations

import sqlalchemy as sa

from optuna_esgd.engine.individual import Facts
from optuna_esgd.store.queries import read_individuals, read_slots
from optuna_esgd.store.tables import individual, plan

_KEPT_GENERATIONS = 2
_LATEST = (
    sa.select(plan.c.generation, plan.c.round)
    .where(plan.c.study_uuid == sa.bindparam("uuid"))
    .order_by(plan.c.generation.desc(), plan.c.round.desc())
    .limit(1)
)


def read_facts(connection: sa.Connection, study_uuid: str) -> Facts:
    """The latest generation, and the slots of its latest round."""
    latest = connection.execute(_LATEST, {"uuid": study_uuid}).one_or_none()
    if latest is None:
        return Facts()
    return Facts(
        generation=latest.generation,
        round=latest.round,
        individuals=read_individuals(connection, study_uuid, latest.generation),
        slots=read_slots(connection, study_uuid, latest.generation, latest.round),
    )


def is_old(connection: sa.Connection, study_uuid: str) -> sa.ColumnElement[bool]:
    """All but the latest two generations."""
    latest = connection.scalar(
        sa.select(sa.func.max(plan.c.generation)).where(plan.c.study_uuid == study_uuid)
    )
    return individual.c.generation <= (latest or 0) - _KEPT_GENERATIONS
