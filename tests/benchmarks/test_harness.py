"""The figures of a benchmark are what was timed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.benchmarks.harness import Report, Row, Timing, take_turns


def test_contenders_take_turns_in_changing_order() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = take_turns(contenders, n_rounds=20, n_warm_up=2)
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == 22
    assert {"".join(sorted(one)) for one in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert {len(timing.wall) for timing in timings.values()} == {20}


def test_sleeping_takes_time_by_the_clock_only() -> None:
    timing = take_turns({"sleep": lambda: time.sleep(0.02)}, n_rounds=3)["sleep"]
    assert timing.median >= 0.02
    assert timing.median_cpu < timing.median


def test_medians_ignore_a_disturbed_round() -> None:
    assert Timing([1.0, 2.0, 100.0], [1.0, 1.0, 1.0]).median == 2.0


@pytest.mark.parametrize(
    ("value", "at_least", "is_reached"),
    [(2.0, True, True), (1.9, True, False), (2.0, False, True), (2.1, False, False)],
)
def test_goals_are_bounds(value: float, at_least: bool, is_reached: bool) -> None:
    assert Row("a", value, goal=2.0, at_least=at_least).is_reached is is_reached
    assert Row("a", value).is_reached is None


def test_a_report_is_a_table_and_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("faster than a loop", 3.14159, goal=4.0, notes="cold"), Row("rate", 12.0, "1/s")]
    report = Report("one", "One benchmark", "python -m one", rows, raw={"times": [1.0]})
    report.save(tmp_path)
    table = (tmp_path / "one.md").read_text(encoding="utf-8")
    assert "| faster than a loop | 3.14 x | ≥ 4 x | **no** | cold |" in table
    assert "| rate | 12 1/s |  |  |  |" in table
    assert table in capsys.readouterr().out
    content = json.loads((tmp_path / "one.json").read_text())
    assert content["raw"] == {"times": [1.0]}
    assert content["rows"][0]["value"] == 3.14159
    assert content["machine"]["n_cores"] >= 1
