"""``optuna.delete_study`` works as ever, and ``prune`` takes away what it leaves."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from optuna_esgd.errors import StudyError
from optuna_esgd.store import tables
from optuna_esgd.store.engines import open_database
from optuna_esgd.store.pruning import prune
from optuna_esgd.store.schema import ensure_schema
from optuna_esgd.store.storages import create_storage
from tests.store.populations import count_rows
from tests.store.studies import open_small, start

_ALL = (
    tables.study,
    tables.plan,
    tables.slot,
    tables.individual,
    tables.snapshot,
    tables.link,
    tables.chunk,
)


def _counts(url: str) -> list[int]:
    return [count_rows(open_database(url), table) for table in _ALL]


def test_nothing_is_left_of_a_deleted_study(database_url: str) -> None:
    storage = create_storage(database_url)
    study = optuna.create_study(storage=storage, study_name="digits")
    study.add_trial(optuna.create_trial(value=1.0))
    start(open_small(study))
    optuna.delete_study(study_name="digits", storage=storage)
    assert optuna.get_all_study_names(database_url) == []
    assert all(_counts(database_url))
    assert prune(storage) == 1
    assert _counts(database_url) == [0] * len(_ALL)
    assert prune(storage) == 0


def test_living_studies_keep_everything(database_url: str) -> None:
    storage = create_storage(database_url)
    living, doomed = (
        optuna.create_study(storage=storage, study_name=name) for name in ("living", "doomed")
    )
    start(open_small(living))
    before = _counts(database_url)
    start(open_small(doomed))
    optuna.delete_study(study_name="doomed", storage=storage)
    assert prune(storage) == 1
    assert _counts(database_url) == before
    again = optuna.load_study(study_name="living", storage=database_url)
    population = open_small(again)
    for one in population.individuals():
        if one.is_stored:
            population.read_weights(one.reference)


def test_successor_by_id_is_not_mistaken_for_the_deleted_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    storage = create_storage(url)
    first = optuna.create_study(storage=storage)
    start(open_small(first))
    optuna.delete_study(study_name=first.study_name, storage=storage)
    second = optuna.create_study(storage=storage)
    assert second._study_id == first._study_id
    population = open_small(second)
    assert prune(storage) == 1
    assert population.facts().generation == -1
    start(population)
    assert prune(storage) == 0


def test_studies_of_other_storages_are_left_alone(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'weights.db'}"
    storages = [create_storage(f"sqlite:///{tmp_path / name}.db") for name in ("one", "two")]
    for storage in storages:
        study = optuna.create_study(storage=storage, study_name="digits")
        start(open_small(study, store=store))
    optuna.delete_study(study_name="digits", storage=storages[0])
    assert prune(storages[1], store) == 0
    assert prune(storages[0], store) == 1
    survivor = optuna.load_study(study_name="digits", storage=storages[1])
    assert len(open_small(survivor, store=store).individuals()) == 4


def test_database_without_populations_is_left_as_it_is(tmp_path: Path) -> None:
    storage = create_storage(f"sqlite:///{tmp_path / 'a.db'}")
    optuna.create_study(storage=storage)
    assert prune(storage) == 0
    ensure_schema(open_database(f"sqlite:///{tmp_path / 'a.db'}"))
    assert prune(storage) == 0


def test_populations_in_memory_go_too() -> None:
    storage = optuna.storages.InMemoryStorage()
    kept, gone = (optuna.create_study(storage=storage) for _ in range(2))
    population = open_small(kept)
    open_small(gone)
    optuna.delete_study(study_name=gone.study_name, storage=storage)
    assert prune(storage) == 1
    again = optuna.load_study(study_name=kept.study_name, storage=storage)
    assert open_small(again) is population


def test_journal_has_nothing_to_prune_without_a_store(tmp_path: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    with pytest.raises(StudyError, match="store="):
        prune(storage)
    store = f"sqlite:///{tmp_path / 'weights.db'}"
    study = optuna.create_study(storage=storage)
    start(open_small(study, store=store))
    optuna.delete_study(study_name=study.study_name, storage=storage)
    assert prune(storage, store) == 1
