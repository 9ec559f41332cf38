"""``create_storage``: Optuna's own tables in a database that also holds weights well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from optuna_esgd.errors import StorageError, StudyError
from optuna_esgd.store import storages
from optuna_esgd.store.storages import create_storage, load_study, open_storage


def test_sqlite_files_are_made_our_way(tmp_path: Path) -> None:
    storage = create_storage(f"sqlite:///{tmp_path}/a.db")
    with storage.engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "page_size", "synchronous", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "page_size": 65536,
        "synchronous": 1,
        "busy_timeout": 60000,
    }
    study = optuna.create_study(storage=storage, study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/a.db").trials) == 2
    storage.engine.dispose()


def test_a_mistyped_path_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="There is no file"):
        open_storage(f"sqlite:///{tmp_path}/typo.db")
    assert list(tmp_path.iterdir()) == []


def test_indexes_that_were_never_made_are_made(database_url: str) -> None:
    engine = create_storage(database_url).engine
    (index,) = (
        index["name"]
        for index in sa.inspect(engine).get_indexes("studies")
        if index["column_names"] == ["study_name"]
    )
    with engine.begin() as connection:
        table = " ON studies" if engine.dialect.name in ("mysql", "mariadb") else ""
        connection.exec_driver_sql(f"DROP INDEX {index}{table}")

    create_storage(database_url)

    assert index in {one["name"] for one in sa.inspect(engine).get_indexes("studies")}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders there")
def test_nobody_waits_for_ever_for_a_stopped_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(storages, "_PATIENCE_SECONDS", 0.1)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(StorageError, match="has been making tables"):
        create_storage(f"sqlite:///{tmp_path}/a.db")
    os.close(descriptor)
    create_storage(f"sqlite:///{tmp_path}/a.db").engine.dispose()


def test_a_mistyped_study_is_told_which_there_are(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    storage = create_storage(url)
    with pytest.raises(StudyError, match=r"There is no study 'digit' in this .*; it has none"):
        load_study(url, "digit")
    for number in range(12):
        optuna.create_study(storage=storage, study_name=f"digits{number:02}")
    with pytest.raises(StudyError, match=r"it has 'digits00', .*, 'digits09', \.\.\.\."):
        load_study(url, "digit")
    storage.engine.dispose()
