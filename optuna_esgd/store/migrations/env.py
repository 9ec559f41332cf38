"""What alembic runs: migrations on the connection that ``store.schema`` gives it."""

from __future__ import annotations

from typing import Any

from alembic import context

from optuna_esgd.store.schema import VERSION_TABLE
from optuna_esgd.store.tables import PREFIX, metadata


def is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether a table is one of ours; alembic would offer to drop Optuna's."""
    return kind != "table" or (name is not None and name.startswith(PREFIX))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=is_ours,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
