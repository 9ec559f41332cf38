"""What travels to the nodes, and where the trainer is found there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import optuna_esgd
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.worker.loading import Workplace
from optuna_esgd.worker.luggage import name_on_nodes, pack_luggage


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``FILE.py:NAME`` in a folder below the current one."""
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "train.py").touch()
    return "below/train.py:trainer"


def test_the_folder_of_the_file_travels_without_the_database(trainer: str, tmp_path: Path) -> None:
    workplace = Workplace(
        trainer=trainer,
        storage="sqlite:///below/esgd.db",
        store=f"sqlite:///{tmp_path}/weights.db",
        study="s",
    )
    assert pack_luggage(workplace) == {
        "working_dir": str(tmp_path / "below"),
        "py_modules": [str(Path(optuna_esgd.__file__).parent)],
        "excludes": ["/esgd.db*"],
    }
    assert name_on_nodes(trainer) == "train.py:trainer"


def test_what_a_job_has_brought_stands(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    brought = {"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(brought))
    workplace = Workplace(trainer=trainer, storage="postgresql://host/x", study="s")
    assert "working_dir" not in pack_luggage(workplace)
    assert name_on_nodes(trainer) == trainer


def test_urls_do_not_travel_that_way(trainer: str) -> None:
    """Ray writes down what travels, for all to read."""
    workplace = Workplace(trainer=trainer, storage="postgresql://u:secret@host/x", study="s")
    assert "secret" not in json.dumps(pack_luggage(workplace))


@pytest.mark.parametrize("wrong", ["train.py", "nowhere.py:trainer", ":trainer", "below:trainer"])
def test_no_such_file(wrong: str, trainer: str) -> None:
    workplace = Workplace(trainer=wrong, storage="sqlite:///esgd.db", study="s")
    with pytest.raises(ConfigurationError, match=r"FILE\.py:NAME|no file"):
        pack_luggage(workplace)
