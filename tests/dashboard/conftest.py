"""A study that is trained once; every test gets a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from optuna_esgd.store.engines import close_databases
from optuna_esgd.store.opening import open_results
from tests.dashboard.served import train


@pytest.fixture(scope="session")
def trained_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "esgd.db"
    study = train(f"sqlite:///{path}")
    open_results(study).collect_garbage()  # of small generations only every eighth is collected
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    close_databases()
    return path


@pytest.fixture
def trained_url(trained_file: Path, tmp_path: Path) -> str:
    """The database of a study "s": three generations of four."""
    shutil.copy(trained_file, tmp_path / "trained.db")
    return f"sqlite:///{tmp_path}/trained.db"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that is not there yet."""
    return f"sqlite:///{tmp_path}/esgd.db"
