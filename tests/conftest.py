"""What all tests can use."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.databases import closed_connections, database_url, databases, make_database

__all__ = ["closed_connections", "database_url", "databases", "make_database"]

# A busy machine must not fail a property for being slow.
settings.register_profile("esgd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("esgd")
