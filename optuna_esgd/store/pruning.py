"""Deletes the populations of studies that Optuna has deleted."""

from __future__ import annotations

from collections.abc import Iterable

import optuna
import sqlalchemy as sa

from optuna_esgd.store import POPULATION_ATTRIBUTE, schema
from optuna_esgd.store.collection import sweep
from optuna_esgd.store.engines import Database, open_database
from optuna_esgd.store.opening import forget_populations
from optuna_esgd.store.storages import find_database, is_own_database, name_home
from optuna_esgd.store.tables import plan, study
from optuna_esgd.store.transactions import read, write


def prune(storage: optuna.storages.BaseStorage, store_url: str | None = None) -> int:
    """Delete every population whose study is gone from a storage, and its weights.

    Populations of studies in other storages are left alone, also where they share the database.

    Args:
        storage: Where the studies live.
        store_url: Where the populations live; None for the studies' own database.

    Returns:
        How many populations were deleted.

    Raises:
        StudyError: The storage has no database, and ``store_url`` names none.
        StorageError: The database cannot be reached, or has tables of another version.
    """
    if store_url is None:
        database = find_database(storage)
    else:
        database = open_database(store_url, create=False)
    if database is None:
        return forget_populations(storage, _claimed(storage.get_all_studies()))
    version = schema.read_version(database)
    schema.check_version(database, version)
    if version is None:
        return 0
    home = "" if is_own_database(storage, database) else name_home(storage)
    rows = read(database, _rows, home)
    # After the rows: a study whose population is being made right now is among these.
    studies = storage.get_all_studies()
    claimed = _claimed(studies)
    being_made = {one._study_id for one in studies if POPULATION_ATTRIBUTE not in one.user_attrs}
    gone = [uuid for uuid, study_id in rows if uuid not in claimed and study_id not in being_made]
    for uuid in gone:
        _delete(database, uuid)
    sweep(database)
    return len(gone)


def _claimed(studies: Iterable[optuna.study._frozen.FrozenStudy]) -> set[str]:
    return {
        str(one.user_attrs[POPULATION_ATTRIBUTE])
        for one in studies
        if POPULATION_ATTRIBUTE in one.user_attrs
    }


def _rows(connection: sa.Connection, home: str) -> list[tuple[str, int | None]]:
    query = sa.select(study.c.uuid, study.c.study_id).where(study.c.home == home)
    return [(row.uuid, row.study_id) for row in connection.execute(query)]


def _delete(database: Database, uuid: str) -> None:
    """Delete a population one generation at a time: others are waiting to write."""
    for generation in read(database, _generations, uuid):
        write(database, _delete_generation, uuid, generation)
    write(database, _delete_study, uuid)


def _generations(connection: sa.Connection, uuid: str) -> list[int]:
    query = sa.select(plan.c.generation).where(plan.c.study_uuid == uuid).distinct()
    return sorted(connection.scalars(query))


def _delete_generation(connection: sa.Connection, uuid: str, generation: int) -> None:
    is_mine = sa.and_(plan.c.study_uuid == uuid, plan.c.generation == generation)
    connection.execute(sa.delete(plan).where(is_mine))


def _delete_study(connection: sa.Connection, uuid: str) -> None:
    connection.execute(sa.delete(study).where(study.c.uuid == uuid))
