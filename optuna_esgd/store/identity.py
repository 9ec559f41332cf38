"""Which population belongs to which study, whoever races, renames, copies or deletes.

A population's uuid is kept in a study user attribute. SQLite gives the id of a deleted study to
the next one, so an id alone proves nothing; the attribute does. It is set before a layout or a
plan is stored: a row without them may still be adopted, a row with them belongs to whom the
attribute says.
"""

from __future__ import annotations

import json
import time
import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy as sa

from optuna_esgd.errors import StudyError
from optuna_esgd.store import POPULATION_ATTRIBUTE
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.engines import Database
from optuna_esgd.store.tables import plan, study
from optuna_esgd.store.transactions import read, write

_ADOPTION_SECONDS = 2.0
_NAME_LENGTH = 512
_FOUND = frozenset({"seed", "backend"})


@dataclass(frozen=True)
class StudyPlace:
    """An Optuna study as seen from the database of its population.

    Attributes:
        storage: Where the study lives.
        study_id: Its id there.
        name: Its name there.
        home: "" if the storage is the population's own database, else the storage's name.
    """

    storage: optuna.storages.BaseStorage
    study_id: int
    name: str
    home: str

    def uuid(self) -> str | None:
        """What the user attribute says now."""
        attributes = self.storage.get_study_user_attrs(self.study_id)
        uuid: str | None = attributes.get(POPULATION_ATTRIBUTE)
        return uuid

    def set_uuid(self, uuid: str) -> None:
        """Say which population is this study's."""
        self.storage.set_study_user_attr(self.study_id, POPULATION_ATTRIBUTE, uuid)

    def has_study(self, study_id: int, uuid: str) -> bool:
        """Whether a study of this id still exists here and claims the same population."""
        try:
            attributes = self.storage.get_study_user_attrs(study_id)
        except KeyError:
            return False
        return attributes.get(POPULATION_ATTRIBUTE) == uuid


@dataclass(frozen=True)
class _Row:
    uuid: str
    home: str
    study_id: int | None
    configuration: Mapping[str, Any]
    is_used: bool


def find_configuration(database: Database, place: StudyPlace, uuid: str) -> Mapping[str, Any]:
    """The stored configuration of a study that says it has a population.

    Raises:
        StudyError: The population is not here, or belongs to the study this one is a copy of.
    """
    row = read(database, _by_uuid, uuid)
    if row is None:
        raise missing_population(place.name, str(database))
    if row.study_id != place.study_id:
        if row.study_id is not None and place.has_study(row.study_id, uuid):
            raise copied_study(place.name, _name_of(place, row.study_id))
        write(database, _move, row.uuid, place)
    return row.configuration


def create_row(
    database: Database, place: StudyPlace, configuration: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """Make the population of a study that has none, or join whoever is doing so right now.

    Args:
        database: Where the population is to live; its tables exist.
        place: The study.
        configuration: For a new population.

    Returns:
        (uuid, stored configuration); the study's user attribute is set.
    """
    while True:
        uuid = write(database, _insert, place, configuration)
        row = read(database, _by_uuid, uuid)
        if row is None:
            continue  # pruned in between
        claimed = place.uuid()
        if claimed is not None:
            return claimed, find_configuration(database, place, claimed)
        if not row.is_used and _is_mine(place, row, configuration):
            place.set_uuid(uuid)
            return uuid, row.configuration
        if place.uuid() is None:
            # A deleted study had this id; its row must not be taken for this study's.
            write(database, _orphan, uuid)


def missing_population(name: str, where: str) -> StudyError:
    """The error for a study whose population is not where it was looked for."""
    return StudyError(
        f"Study {name!r} has a population, but it is not in {where}: its weights were pruned, or "
        "live in another database. Name that database with store='...'."
    )


def copied_study(name: str, original: str) -> StudyError:
    """The error for a study copied together with the name of its population."""
    return StudyError(
        f"Study {name!r} is a copy of study {original!r}, and its population belongs to the "
        "original. Go on with the original, or start a new study; a population cannot be shared."
    )


def _is_mine(place: StudyPlace, row: _Row, configuration: Mapping[str, Any]) -> bool:
    """Whether an unused row, found under this study's id, was made for this study.

    With the same settings it does not matter: adopt it. With others it is either another
    worker's, who is about to set the attribute, or left behind by a worker that died.
    """
    if _chosen(row.configuration) == _chosen(configuration):
        return True
    deadline = time.monotonic() + _ADOPTION_SECONDS
    while time.monotonic() < deadline:
        if place.uuid() is not None:
            return False
        time.sleep(_ADOPTION_SECONDS / 20)
    return False


def _chosen(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What users choose; a seed may be drawn, and a backend found by measuring."""
    return {name: value for name, value in configuration.items() if name not in _FOUND}


def _by_uuid(connection: sa.Connection, uuid: str) -> _Row | None:
    row = connection.execute(sa.select(study).where(study.c.uuid == uuid)).one_or_none()
    if row is None:
        return None
    planned = connection.scalar(
        sa.select(plan.c.generation).where(plan.c.study_uuid == uuid).limit(1)
    )
    is_used = planned is not None or row.layout is not None
    return _Row(
        uuid=row.uuid,
        home=row.home,
        study_id=row.study_id,
        configuration=json.loads(row.configuration),
        is_used=is_used,
    )


def _insert(connection: sa.Connection, place: StudyPlace, configuration: Mapping[str, Any]) -> str:
    """Insert a row for the study; the uuid of the one that is there already, if one is."""
    found: str | None = connection.scalar(sa.select(study.c.uuid).where(_is_at(place)))
    if found is not None:
        return found
    uuid = uuids.uuid4().hex
    connection.execute(
        sa.insert(study).values(
            uuid=uuid,
            home=place.home,
            study_id=place.study_id,
            study_name=place.name[:_NAME_LENGTH],
            configuration=json.dumps(configuration),
            created_at=now_seconds(),
        )
    )
    return uuid


def _move(connection: sa.Connection, uuid: str, place: StudyPlace) -> None:
    """Follow a renamed study to its new id; whose row is there now is no longer."""
    connection.execute(
        sa.update(study).where(_is_at(place), study.c.uuid != uuid).values(study_id=None)
    )
    connection.execute(
        sa.update(study)
        .where(study.c.uuid == uuid)
        .values(home=place.home, study_id=place.study_id, study_name=place.name[:_NAME_LENGTH])
    )


def _orphan(connection: sa.Connection, uuid: str) -> None:
    connection.execute(sa.update(study).where(study.c.uuid == uuid).values(study_id=None))


def _is_at(place: StudyPlace) -> sa.ColumnElement[bool]:
    return sa.and_(study.c.home == place.home, study.c.study_id == place.study_id)


def _name_of(place: StudyPlace, study_id: int) -> str:
    name: str = place.storage.get_study_name_from_id(study_id)
    return name
