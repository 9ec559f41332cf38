from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.utilisation import main


def test_a_small_load_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not how long it takes; that both kinds of run end, are verified, and are told apart."""
    sizes = ["--workers", "2", "--population", "4", "--generations", "2", "--seconds", "0.01"]
    main([*sizes, "--json", str(tmp_path / "measured.json")])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3
    assert table[2].startswith("| 2 | ")
    assert table[2].count("%") == 2
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["load"]["population_size"] == 4
    assert [run["asynchronous"] for run in measured["runs"]] == [False, True]
    assert all(0 < run["utilisation"] <= 1 for run in measured["runs"])
