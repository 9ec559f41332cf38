"""Populations to test, one kind of store each."""

from __future__ import annotations

import json
import uuid as uuids
from collections.abc import Mapping

import sqlalchemy as sa

from optuna_esgd.engine.individual import Reference
from optuna_esgd.engine.ports import Population
from optuna_esgd.store import schema
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.engines import Database, open_database
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.tables import chunk, individual, link, study
from optuna_esgd.store.transactions import write


def make_population(url: str | sa.URL, configuration: Mapping[str, object]) -> SqlPopulation:
    """A new population without an Optuna study."""
    database = open_database(url)
    schema.ensure_schema(database)
    uuid = uuids.uuid4().hex
    write(database, _insert, uuid, configuration)
    return SqlPopulation(database, uuid, configuration)


def reopen(population: SqlPopulation) -> SqlPopulation:
    """The same population, as another process would see it."""
    return SqlPopulation(population.database, population.uuid, population.configuration)


def damage(population: Population, reference: Reference, *, position: int = 0) -> str:
    """Flip a bit in a stored chunk of an individual; the chunk's digest."""
    assert isinstance(population, SqlPopulation)
    return write(population.database, _damage, population.uuid, reference, position)


def count_rows(database: Database, table: sa.Table) -> int:
    """How many rows a table has."""
    return write(database, lambda c: c.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _insert(connection: sa.Connection, uuid: str, configuration: Mapping[str, object]) -> None:
    connection.execute(
        sa.insert(study).values(
            uuid=uuid,
            home="test",
            study_name=f"study {uuid}",
            configuration=json.dumps(configuration),
            created_at=now_seconds(),
        )
    )


def _damage(connection: sa.Connection, uuid: str, reference: Reference, position: int) -> str:
    digest = connection.execute(
        sa.select(link.c.chunk)
        .join(individual, individual.c.weights == link.c.snapshot)
        .where(individual.c.study_uuid == uuid, link.c.position == position)
        .where(individual.c.generation == reference.generation)
        .where(individual.c.round == reference.round, individual.c.number == reference.number)
    ).scalar_one()
    mine = chunk.c.digest == digest
    payload = bytearray(connection.execute(sa.select(chunk.c.payload).where(mine)).scalar_one())
    payload[len(payload) // 2] ^= 1
    connection.execute(sa.update(chunk).where(mine).values(payload=bytes(payload)))
    return str(digest)
