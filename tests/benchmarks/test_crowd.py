"""A few workers through Optuna, with its proxy and without: the bits of one worker."""

from __future__ import annotations

import pytest

from tests.benchmarks.crowd import Crowd, measure

pytest.importorskip("grpc")


@pytest.mark.slow
def test_a_crowd_ends_where_one_worker_does() -> None:
    report = measure(Crowd(3, population_size=6, n_generations=2))
    claimed_twice = [row for row in report.rows if row.measured.endswith("claimed twice")]
    assert len(claimed_twice) == 3
    assert all(row.is_reached for row in claimed_twice)
    rates = [row for row in report.rows if row.unit == "trials/s"]
    assert all(row.value > 0 and "statements" in row.notes for row in rates)
