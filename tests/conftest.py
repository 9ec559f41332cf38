"""What all tests can use."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from optuna_esgd.native.compiler import FOLDER_VARIABLE
from tests.databases import closed_connections, database_url, databases, make_database

__all__ = ["closed_connections", "database_url", "databases", "make_database"]

# A busy machine must not fail a property for being slow.
settings.register_profile("esgd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("esgd")


@pytest.fixture(scope="session", autouse=True)
def kernels(pytestconfig: pytest.Config) -> None:
    """What is compiled is kept with the tests, not in the user's own folder."""
    cache = getattr(pytestconfig, "cache", None)  # pytest can be run without one
    if cache is not None:
        os.environ[FOLDER_VARIABLE] = str(cache.mkdir("kernels"))
