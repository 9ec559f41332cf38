"""``optuna-esgd doctor`` as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optuna_esgd.cli import main
from optuna_esgd.doctor.examine import EXAMINATIONS
from optuna_esgd.doctor.report import BREAKS, HOLDS
from tests.doctor.patients import HEALTHY, ILL


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def test_a_healthy_trainer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", f"{HEALTHY}:trainer", "--generations", "5"]) == 0
    said = capsys.readouterr()
    assert HOLDS in said.out
    assert "All 5: " in said.out
    assert "broken" not in said.out
    assert "training founders 0 to 3 for one epoch" in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_ill_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{ILL}:draws_from_its_own"]) == 1
    said = capsys.readouterr().out
    assert f"{BREAKS} same weights, same fitness." in said
    assert "→ Selection would keep whoever was lucky." in said


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{ILL}:with_nan", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["is_guaranteed"] is False
    assert len(found["findings"]) == len(EXAMINATIONS)
    broken = [one for one in found["findings"] if one["severity"] == "broken"]
    assert [one["examination"] for one in broken] == ["founders that learn"]
    assert broken[0]["numbers"]["diverged at birth"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.py:trainer"], "There is no file"),
        ([f"{HEALTHY}:nothing"], "does not define 'nothing'"),
        ([f"{HEALTHY}:trainer", "--workers", "0"], "--workers must be at least 1"),
        ([f"{HEALTHY}:trainer", "--device", "cuda:99"], "cuda:99"),
        ([f"{HEALTHY}:trainer", "--direction", "maximize"], "metric"),
    ],
)
def test_what_cannot_be_examined(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("optuna-esgd: ")
    assert words in said


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 2
    assert "FILE.py:TRAINER" in capsys.readouterr().err
