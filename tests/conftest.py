"""What all tests can use."""

from __future__ import annotations

from tests.databases import (
    closed_connections as closed_connections,
    database_url as database_url,
    databases as databases,
    make_database as make_database,
)
