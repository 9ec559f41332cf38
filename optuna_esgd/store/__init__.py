"""Store: keeps populations, their weights and their lineage, in SQL or in memory; no torch.

A *store* is where a study's population lives: plans, slots, individuals, and the bytes of their
weights. It implements ``engine.ports.Population`` twice: ``SqlPopulation`` in the study's own
database (SQLite, PostgreSQL, MySQL, MariaDB), ``MemoryPopulation`` for studies in memory. Faces
open one with ``opening.open_population`` and never see a table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna_esgd.store.artifacts import SqlArtifactStore as SqlArtifactStore
    from optuna_esgd.store.storages import create_storage as create_storage

__all__ = ["POPULATION_ATTRIBUTE", "SqlArtifactStore", "create_storage"]

POPULATION_ATTRIBUTE = "esgd_study"  # of a study: the uuid of its population

_HOMES = {"SqlArtifactStore": "artifacts", "create_storage": "storages"}


def __getattr__(name: str) -> object:
    """Load what needs SQLAlchemy and Optuna when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"optuna_esgd.store.{_HOMES[name]}"), name)
