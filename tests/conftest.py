"""What all tests can use."""

from __future__ import annotations

from tests.databases import closed_connections, database_url, databases, make_database

__all__ = ["closed_connections", "database_url", "databases", "make_database"]
