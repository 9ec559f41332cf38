"""What all tests of faults compare with."""

from __future__ import annotations

import pytest

from tests.faults.small_run import result, run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """The small run as it goes when nothing happens."""
    return result(run(f"sqlite:///{tmp_path_factory.mktemp('undisturbed')}/a.db"))
