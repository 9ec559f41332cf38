"""Evaluations of the loss alone are counted beside gradients."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Individuals trained before have none: all species used gradients."""
    op.add_column(
        "esgd_individual",
        sa.Column("n_forwards", sa.BigInteger, nullable=False, server_default="0"),
    )
