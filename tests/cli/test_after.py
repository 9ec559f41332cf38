"""``optuna-esgd replay``, ``schedule`` and ``results``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors import safe_open

import optuna_esgd as esgd
from optuna_esgd.cli import main
from tests.trainer.studies import make_study, make_task

FILE = """
import optuna_esgd as esgd
from tests.trainer.models import examples
from tests.trainer.studies import make_task

task = make_task()
trainer = esgd.ESGDTrainer(task, cohort_size=1, device="cpu")
other = esgd.ESGDTrainer(task, species=["Adam"], cohort_size=1, device="cpu")
test = esgd.HeldOut(task, examples("mlp", 2))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained study and its trainer."""
    folder = tmp_path_factory.mktemp("after")
    study = make_study(storage=esgd.create_storage(f"sqlite:///{folder}/esgd.db"))
    study.optimize(esgd.ESGDTrainer(make_task(), cohort_size=1), n_trials=8)
    (folder / "after.py").write_text(FILE)
    return folder


def run(place: Path, command: str, *options: str, trainer: str = "trainer") -> int:
    url = f"sqlite:///{place}/esgd.db"
    return main(
        [command, f"{place}/after.py:{trainer}", "--storage", url, "--study", "s", *options]
    )


def test_replay(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "replay") == 0
    lines = capsys.readouterr().out.splitlines()
    digest = re.search(r"has digest (\w{32})\.", lines[-1])
    assert digest is not None
    assert lines[-2].endswith(f": {digest[1]}")
    assert run(place, "replay", trainer="other") == 2
    assert "another configuration" in capsys.readouterr().err
    assert run(place, "replay", "--trial", "99") == 2
    assert "Trial 99 has no individual" in capsys.readouterr().err


def test_schedule(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plain.py"
    assert run(place, "schedule", "--output", str(path)) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert "import torch" in path.read_text()
    assert "esgd" not in path.read_text()


def test_results(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "chosen.safetensors"
    assert run(place, "results", "--test", "test", "--output", str(path)) == 0
    out = capsys.readouterr().out
    assert "test loss" in out
    names = ("best", "uniform soup", "greedy soup", "ensemble")
    assert all(name in out for name in names)
    with safe_open(path, "pt") as file:
        assert file.metadata()["made"] in names
    assert run(place, "results", "--test", "nothing") == 2
    assert "does not define 'nothing'" in capsys.readouterr().err
    assert run(place, "results", "--test", "__name__") == 2
    assert "must define __name__ as a function" in capsys.readouterr().err


def test_results_into_nowhere_are_refused_before_they_are_scored(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "results", "--output", str(tmp_path / "nowhere" / "best.st")) == 2
    said = capsys.readouterr()
    assert "There is no folder" in said.err
    assert not said.out


def test_no_database_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "after.py").write_text(FILE)
    assert run(tmp_path, "replay") == 2
    assert capsys.readouterr().err.startswith("optuna-esgd: ")
    assert not (tmp_path / "esgd.db").exists()
