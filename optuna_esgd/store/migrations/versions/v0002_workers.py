"""Trials that are stood by, individuals being shown, losses evaluated, checkpoints of slots."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MYSQL: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (
        ("engine", "InnoDB"),
        ("charset", "utf8mb4"),
        ("collate", "utf8mb4_bin"),
    )
}


def upgrade() -> None:
    """Add what workers need; MySQL may have stopped in the middle, so look before each step."""
    inspector = sa.inspect(op.get_bind())
    columns = {column["name"] for column in inspector.get_columns("esgd_individual")}
    tables = set(inspector.get_table_names())
    if "shown_until" not in columns:
        op.add_column("esgd_individual", sa.Column("shown_until", sa.Double))
    if "n_forwards" not in columns:
        # Individuals trained before have none: all species used gradients.
        n_forwards = sa.Column("n_forwards", sa.BigInteger, nullable=False, server_default="0")
        op.add_column("esgd_individual", n_forwards)
    if "esgd_trial" not in tables:
        _create_trial()
    if "esgd_checkpoint" not in tables:
        _create_checkpoint()


def _create_trial() -> None:
    op.create_table(
        "esgd_trial",
        sa.Column("study_uuid", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("study_uuid", "number", name="pk_esgd_trial"),
        sa.ForeignKeyConstraint(
            ["study_uuid"],
            ["esgd_study.uuid"],
            name="fk_esgd_trial_study_uuid",
            ondelete="CASCADE",
        ),
        **_MYSQL,
    )


def _create_checkpoint() -> None:
    key = ("study_uuid", "generation", "round", "cohort")
    op.create_table(
        "esgd_checkpoint",
        sa.Column("study_uuid", sa.String(32), nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False, autoincrement=False) for name in key[1:]),
        sa.Column("snapshot", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint(*key, name="pk_esgd_checkpoint"),
        sa.ForeignKeyConstraint(
            ["snapshot"], ["esgd_snapshot.digest"], name="fk_esgd_checkpoint_snapshot"
        ),
        sa.ForeignKeyConstraint(
            key,
            [f"esgd_slot.{name}" for name in key],
            name="fk_esgd_checkpoint_study_uuid_generation_round_cohort",
            ondelete="CASCADE",
        ),
        sa.Index("ix_esgd_checkpoint_snapshot", "snapshot"),
        **_MYSQL,
    )
