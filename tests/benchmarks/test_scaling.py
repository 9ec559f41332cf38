"""Workers share the slots of ``scaling``, and each is claimed once."""

from __future__ import annotations

import pytest

from tests.benchmarks.scaling import claims_per_second, measure


def test_every_slot_is_claimed_once(database_url: str) -> None:
    assert claims_per_second(database_url, n_workers=2, n_slots=12) > 0


@pytest.mark.slow
def test_workers_of_all_kinds_end(database_url: str) -> None:
    report = measure(
        database_url, n_workers=(1, 2), population_size=4, n_generations=2, n_slots=8, seconds=0.01
    )
    shares = [row.value for row in report.rows if not row.unit]
    assert len(shares) == 2 * 3
    assert all(0 < share <= 1 for share in shares)
