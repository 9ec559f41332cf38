"""The command line on real studies."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest
from safetensors.torch import load_file

import optuna_esgd as esgd
from optuna_esgd.cli import main
from tests.trainer.studies import make_study, make_task


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/esgd.db"
    study = make_study(storage=esgd.create_storage(url))
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=12)
    return url


def execute(url: str, statement: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(statement)
    connection.close()


def test_verify_finds_a_true_study_true(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", url, "--study", "s"]) == 0
    assert "True" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "status"])
def test_the_database_may_be_named_as_for_workers(
    command: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ESGD_STORAGE", raising=False)
    assert main([command, "--storage", url, "--study", "s"]) == 0
    assert main([command, url, "--storage", "sqlite:///other.db", "--study", "s"]) == 2
    assert "Two databases were given" in capsys.readouterr().err
    assert main([command, "--study", "s"]) == 2
    assert "or the variable ESGD_STORAGE" in capsys.readouterr().err
    monkeypatch.setenv("ESGD_STORAGE", url)
    assert main([command, "--study", "s"]) == 0


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE esgd_individual SET fitness = fitness + 1 WHERE generation = 1 AND round = 0",
        "UPDATE esgd_individual SET birth_fitness = birth_fitness - 0.01 WHERE generation = 1",
        "UPDATE esgd_plan SET certificate = '[0.001, 0.002]' WHERE generation = 1 AND round = 0",
        "UPDATE esgd_chunk SET payload = zeroblob(length(payload))",
        "DELETE FROM esgd_individual WHERE generation = 0 AND round = 0 AND number = 1",
        "UPDATE esgd_individual SET hyperparameters = '{}' WHERE generation = 2 AND round = 0",
        "UPDATE esgd_individual SET fitness = fitness / 2 WHERE generation = 2 AND round = 0",
        "UPDATE trial_values SET value = value / 2",
    ],
)
def test_verify_finds_lies(url: str, lie: str, capsys: pytest.CaptureFixture[str]) -> None:
    execute(url, lie)
    assert main(["verify", url, "--study", "s"]) == 1
    assert "lies" in capsys.readouterr().out


def test_damaged_rows_are_an_error_in_words(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    execute(url, "UPDATE esgd_individual SET parents = 'no JSON' WHERE generation = 1")
    assert main(["verify", url, "--study", "s"]) == 2
    assert "'no JSON' is not JSON" in capsys.readouterr().err


def test_export_into_nowhere(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "nowhere" / "best.safetensors")
    assert main(["export", url, "--study", "s", "--output", target]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_export_to_a_folder(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", url, "--study", "s", "--output", str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder; name the file" in capsys.readouterr().err


def test_export_writes_safetensors(url: str, tmp_path: Path) -> None:
    target = tmp_path / "best.safetensors"
    assert main(["export", url, "--study", "s", "--output", str(target)]) == 0
    assert set(load_file(target)) == set(make_task().build_model().state_dict())


def test_prune_deletes_what_deleted_studies_left(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna.delete_study(study_name="s", storage=url)
    assert main(["prune", url]) == 0
    assert "Deleted 1 population" in capsys.readouterr().out
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        for table in ("study", "plan", "slot", "individual", "snapshot", "link", "chunk"):
            rows = connection.execute(f"SELECT COUNT(*) FROM esgd_{table}").fetchone()
            assert rows == (0,), table
    connection.close()


def test_upgrade_of_a_current_schema_changes_nothing(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["storage", "upgrade", url]) == 0
    monkeypatch.setenv("ESGD_STORAGE", "sqlite:///nowhere.db")
    monkeypatch.setenv("ESGD_STORE", url)
    assert main(["storage", "upgrade"]) == 0
    monkeypatch.setenv("ESGD_STORE", "sqlite:///nowhere.db")
    assert main(["storage", "upgrade", url]) == 0
    assert main(["storage", "upgrade", "--storage", url]) == 0
    assert main(["storage", "upgrade"]) != 0
    monkeypatch.delenv("ESGD_STORE")
    assert main(["verify", url, "--study", "s"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "sqlite:///nowhere.db", "--study", "s"],
        ["storage", "upgrade", "sqlite:///nowhere.db"],
        ["prune", "sqlite:///nowhere.db"],
        ["verify", "oracle://user:secret@host/x", "--study", "s"],
        ["verify", "postgresql://user:secret@127.0.0.1:1/x", "--study", "s"],
    ],
)
def test_errors_are_one_line_without_passwords(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("optuna-esgd: ")
    assert len(errors.splitlines()) == 1
    assert "secret" not in errors
    assert list(tmp_path.iterdir()) == []


def test_unknown_study(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", url, "--study", "unknown"]) == 2
    assert "unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("worker", "import nowhere"),
        ("run", "def trainer(): raise ValueError('out of cheese')"),
        ("doctor", "trainer = ("),
        ("compare", "def trainer(seed): raise ValueError('out of cheese')"),
    ],
)
def test_a_file_that_raises_is_wrong_use(
    command: str, lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(lines)
    options = ["--study", "s", "--storage", f"sqlite:///{tmp_path}/esgd.db"]
    arguments = options if command in ("worker", "run") else []
    assert main([command, f"{path}:trainer", *arguments]) == 2
    assert capsys.readouterr().err.startswith(
        f"optuna-esgd: {path} cannot be used. Line 1 raised "
    )
    assert list(tmp_path.glob("*.db")) == []


@pytest.mark.parametrize("command", ["worker", "run", "doctor", "compare"])
def test_ctrl_c_before_the_work_begins_is_no_traceback(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here while the user's file is imported; torch before it takes longer."""
    path = tmp_path / "slow.py"
    path.write_text("raise KeyboardInterrupt")
    options = ["--study", "s", "--storage", f"sqlite:///{tmp_path}/esgd.db"]
    arguments = options if command in ("worker", "run") else []
    assert main([command, f"{path}:trainer", *arguments]) == 130
    assert capfd.readouterr().err == ""
