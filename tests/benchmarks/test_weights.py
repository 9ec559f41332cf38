"""Not how fast it is; that what is read is what was written, and everything is measured."""

from __future__ import annotations

import pytest

from optuna_esgd.store.storages import create_storage
from tests.benchmarks.weights import measure


def test_files_are_measured() -> None:
    report = measure(sizes_mb=(0.3,), n_rounds=1)
    measured = [row.measured.rpartition(": ") for row in report.rows]
    assert [where for where, _, what in measured if what == "read"] == [
        "SQLite, a file of ours, 0.3 MB",
        "SQLite, a file of Optuna's, 0.3 MB",
        "artifacts, 0.3 MB",
    ]
    assert all(row.value > 0 for row in report.rows)


@pytest.mark.slow
def test_servers_are_measured(database_url: str) -> None:
    create_storage(database_url)
    report = measure([database_url], sizes_mb=(5,), n_rounds=1)
    assert {row.measured.rpartition(": ")[2] for row in report.rows} >= {"write", "read"}
