"""Optuna storages made our way, and how they are told apart."""

from __future__ import annotations

import pickle
from pathlib import Path

import optuna
import pytest

from optuna_esgd.store.engines import open_database
from optuna_esgd.store.storages import (
    create_storage,
    find_database,
    is_own_database,
    name_home,
    unwrap,
)


def _objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def test_storage_works_as_optunas_own(database_url: str) -> None:
    study = optuna.create_study(storage=create_storage(database_url), study_name="digits")
    study.optimize(_objective, n_trials=2)
    again = optuna.load_study(study_name="digits", storage=create_storage(database_url))
    assert len(again.trials) == 2


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_memory_works_as_well(url: str) -> None:
    study = optuna.create_study(storage=create_storage(url))
    study.optimize(_objective, n_trials=2)
    assert find_database(study._storage) is None


def test_braces_are_part_of_the_name(tmp_path: Path) -> None:
    """Optuna takes them for a template."""
    optuna.create_study(storage=create_storage(f"sqlite:///{tmp_path / 'a{b}.db'}"))
    assert (tmp_path / "a{b}.db").exists()


def test_storage_can_go_to_another_process(database_url: str) -> None:
    storage = create_storage(database_url)
    optuna.create_study(storage=storage, study_name="digits")
    copy = pickle.loads(pickle.dumps(storage))
    assert optuna.get_all_study_names(copy) == ["digits"]
    copy.engine.dispose()


def test_database_of_a_storage_is_its_own(database_url: str, tmp_path: Path) -> None:
    """Whether it comes from the storage or from the URL; cached or bare."""
    storage = create_storage(database_url)
    study = optuna.create_study(storage=storage)
    assert unwrap(study._storage) is storage
    assert is_own_database(study._storage, open_database(database_url))
    assert not is_own_database(storage, open_database(f"sqlite:///{tmp_path / 'other.db'}"))


def test_homes_have_names_that_last(tmp_path: Path) -> None:
    """The same for the same place, another for another, and short enough for a key."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    memory = optuna.storages.InMemoryStorage()
    storages = [
        create_storage(url),
        create_storage(f"sqlite:///{tmp_path / 'b.db'}"),
        optuna.storages.JournalStorage(journal),
        memory,
        optuna.storages.InMemoryStorage(),
        create_storage("sqlite://"),
    ]
    names = [name_home(storage) for storage in storages]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) <= 255 for name in names)
    assert name_home(create_storage(url)) == names[0]
    assert name_home(optuna.storages.JournalStorage(journal)) == names[2]
    assert name_home(memory) == names[3]
