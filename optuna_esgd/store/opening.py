"""Finds or makes the population of an Optuna study."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import optuna

from optuna_esgd.engine.configuration import Backend, Configuration, Settings
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.store import POPULATION_ATTRIBUTE, identity, schema
from optuna_esgd.store.engines import Database, open_database
from optuna_esgd.store.identity import StudyPlace
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.storages import find_database, is_own_database, name_home, unwrap

_opened: WeakKeyDictionary[optuna.Study, dict[str | None, Population]] = WeakKeyDictionary()
_in_memory: WeakKeyDictionary[
    optuna.storages.BaseStorage, dict[str, tuple[int, MemoryPopulation]]
] = WeakKeyDictionary()
_lock = threading.RLock()


def open_population(
    study: optuna.Study,
    settings: Settings,
    *,
    cohort_size: int | None,
    described: Mapping[str, str] | None = None,
    backend: Backend | None = None,
    first_backend: Backend | None = None,
    store: str | None = None,
) -> tuple[Population, Configuration]:
    """Find or make the population of a study.

    Args:
        study: With one objective.
        settings: Must agree with those the population was made with.
        cohort_size: Individuals that train together; None for what is stored, or the whole
            population.
        described: See ``Configuration``; None for what is stored, or nothing.
        backend: See ``Configuration``; None for what is stored.
        first_backend: What to store if nothing is, where ``backend`` is None. Workers that open
            a study together may have measured differently: the first one's counts.
        store: URL of the database for weights; None for the study's own.

    Returns:
        The population, and its configuration. Opening it again is cheap.

    Raises:
        StudyError: The study has several objectives, is a copy, or its storage has no database.
        ConfigurationError: The population was made with other settings.
        StorageError: The database cannot be reached, or has tables of another version.
    """
    if len(study.directions) != 1:
        raise StudyError(
            f"ESGD needs one objective, study {study.study_name!r} has {len(study.directions)}."
        )
    with _lock:
        population = _find(study, store)
        if population is None:
            fresh = _configure(
                study, settings, cohort_size, described, {"backend": backend or first_backend}
            )
            population = _create(study, store, fresh)
            _opened.setdefault(study, {})[store] = population
    stored = population.configuration
    told = stored if backend is None else {**stored, "backend": backend}
    configuration = _configure(study, settings, cohort_size, described, told)
    try:
        configuration.check_same(stored)
    except ConfigurationError as error:
        if population.best() is None:  # such as after a first run that failed
            raise ConfigurationError(
                f"{error} Nobody has finished training in this one, so nothing would be lost with "
                "optuna.delete_study."
            ) from None
        raise
    return population, configuration


def find_population(study: optuna.Study, store: str | None = None) -> Population | None:
    """The population of a study, or None if it has none; nothing is made.

    Args:
        study: Any study.
        store: URL of the database for weights; None for the study's own.

    Raises:
        StudyError: The study has a population that is not here, or it is a copy.
        StorageError: The database cannot be reached, or has tables of another version.
    """
    with _lock:
        return _find(study, store)


def open_results(study: optuna.Study, store: str | None = None) -> Population:
    """The population of a study, without making one.

    Raises:
        StudyError: The study has none.
    """
    if not isinstance(study, optuna.Study):
        raise ConfigurationError(f"study must be an optuna.Study, got {type(study).__name__}.")
    population = find_population(study, store=store)
    if population is None:
        raise StudyError(
            f"Study {study.study_name!r} has no population: it was not trained with an "
            "ESGDTrainer or esgd.sgd_step, or its weights are in another database (pass store=)."
        )
    return population


def forget_populations(storage: optuna.storages.BaseStorage, uuids: set[str]) -> int:
    """Drop populations in memory whose studies are not among these; returns how many."""
    with _lock:
        known = _in_memory.get(unwrap(storage), {})
        gone = [uuid for uuid in known if uuid not in uuids]
        for uuid in gone:
            del known[uuid]
        return len(gone)


def _configure(
    study: optuna.Study,
    settings: Settings,
    cohort_size: int | None,
    described: Mapping[str, str] | None,
    stored: Mapping[str, Any],
) -> Configuration:
    seed = stored.get("seed")
    return settings.configure(
        seed=secrets.randbits(63) if seed is None else seed,
        cohort_size=stored.get("cohort_size") if cohort_size is None else cohort_size,
        maximize=study.direction == optuna.study.StudyDirection.MAXIMIZE,
        described=stored.get("described") if described is None else described,
        backend=stored.get("backend"),
    )


def _find(study: optuna.Study, store: str | None) -> Population | None:
    population = _opened.get(study, {}).get(store)
    if population is not None:
        return population
    storage = study._storage
    uuid = storage.get_study_user_attrs(study._study_id).get(POPULATION_ATTRIBUTE)
    if uuid is None:
        return None
    database = _database(study, store, create=False)
    if database is None:
        population = _find_in_memory(study, uuid)
    else:
        version = schema.read_version(database)
        if version is None:
            raise identity.missing_population(study.study_name, str(database))
        schema.check_version(database, version)
        place = _place(study, store, database)
        stored = identity.find_configuration(database, place, uuid)
        population = SqlPopulation(database, uuid, stored)
    _opened.setdefault(study, {})[store] = population
    return population


def _create(study: optuna.Study, store: str | None, configuration: Configuration) -> Population:
    database = _database(study, store, create=True)
    if database is None:
        population = MemoryPopulation(configuration.to_json())
        known = _in_memory.setdefault(unwrap(study._storage), {})
        known[population.uuid] = (study._study_id, population)
        study._storage.set_study_user_attr(study._study_id, POPULATION_ATTRIBUTE, population.uuid)
        return population
    schema.ensure_schema(database)
    place = _place(study, store, database)
    uuid, stored = identity.create_row(database, place, configuration.to_json())
    return SqlPopulation(database, uuid, stored)


def _find_in_memory(study: optuna.Study, uuid: str) -> Population:
    known = _in_memory.get(unwrap(study._storage), {})
    if uuid not in known:
        raise identity.missing_population(study.study_name, "this process's memory")
    study_id, population = known[uuid]
    place = StudyPlace(study._storage, study._study_id, study.study_name, "")
    if study_id != study._study_id:
        if place.has_study(study_id, uuid):
            original = study._storage.get_study_name_from_id(study_id)
            raise identity.copied_study(study.study_name, original)
        known[uuid] = (study._study_id, population)
    return population


def _database(study: optuna.Study, store: str | None, *, create: bool) -> Database | None:
    if store is None:
        return find_database(study._storage)
    return open_database(store, create=create)


def _place(study: optuna.Study, store: str | None, database: Database) -> StudyPlace:
    home = ""
    if store is not None and not is_own_database(study._storage, database):
        home = name_home(study._storage)
    return StudyPlace(study._storage, study._study_id, study.study_name, home)
