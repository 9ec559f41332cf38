"""Not how fast it is; that everything is measured."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.breeding import measure


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_breeding_is_measured() -> None:
    report = measure([(1000, 2)], n_rounds=1)
    assert [row.goal for row in report.rows] == [60, 1.5, None, 8]
    assert all(row.value >= 0 for row in report.rows)
    assert report.raw["1000 weights"]["mu"] == 2
