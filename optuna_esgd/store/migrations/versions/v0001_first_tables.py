"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_MYSQL = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (
        ("engine", "InnoDB"),
        ("charset", "utf8mb4"),
        ("collate", "utf8mb4_bin"),
    )
}


def upgrade() -> None:
    """Make every table; frozen as it was, whatever ``store.tables`` says later."""
    _create_study_and_plan()
    _create_weights()
    _create_slot()
    _create_individual()
    _create_artifact()
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE esgd_chunk ALTER COLUMN payload SET STORAGE EXTERNAL")


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def _bytes() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _table(name: str, *items: sa.schema.SchemaItem) -> None:
    options: dict[str, Any] = _MYSQL
    op.create_table(f"esgd_{name}", *items, **options)


def _plan_key(table: str, *more: str) -> tuple[sa.schema.SchemaItem, ...]:
    names = ("generation", "round", *more)
    return (
        sa.Column("study_uuid", sa.String(32), nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False, autoincrement=False) for name in names),
        sa.PrimaryKeyConstraint("study_uuid", *names, name=f"pk_esgd_{table}"),
    )


def _to_plan(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["study_uuid", "generation", "round"],
        ["esgd_plan.study_uuid", "esgd_plan.generation", "esgd_plan.round"],
        name=f"fk_esgd_{table}_study_uuid_generation_round",
        ondelete="CASCADE",
    )


def _to_snapshot(table: str, column: str, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    name = f"fk_esgd_{table}_{column}"
    return sa.ForeignKeyConstraint(
        [column], ["esgd_snapshot.digest"], name=name, ondelete=ondelete
    )


def _create_study_and_plan() -> None:
    _table(
        "study",
        sa.Column("uuid", sa.String(32), nullable=False),
        sa.Column("home", sa.String(255), nullable=False),
        sa.Column("study_id", sa.BigInteger),
        sa.Column("study_name", sa.String(512), nullable=False),
        sa.Column("configuration", _text(), nullable=False),
        sa.Column("layout", _text()),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_esgd_study"),
        sa.UniqueConstraint("home", "study_id", name="uq_esgd_study_home_study_id"),
    )
    _table(
        "plan",
        *_plan_key("plan"),
        sa.Column("certificate", _text(), nullable=False),
        sa.Column("committed_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uuid"],
            ["esgd_study.uuid"],
            name="fk_esgd_plan_study_uuid",
            ondelete="CASCADE",
        ),
    )


def _create_weights() -> None:
    _table(
        "snapshot",
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("manifest", _bytes(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_esgd_snapshot"),
    )
    _table(
        "chunk",
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("codec", sa.String(16), nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("payload", _bytes(), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_esgd_chunk"),
    )
    _table(
        "link",
        sa.Column("snapshot", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("chunk", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("snapshot", "position", name="pk_esgd_link"),
        _to_snapshot("link", "snapshot", "CASCADE"),
        sa.ForeignKeyConstraint(["chunk"], ["esgd_chunk.digest"], name="fk_esgd_link_chunk"),
    )
    op.create_index("ix_esgd_link_chunk", "esgd_link", ["chunk"])


def _create_slot() -> None:
    _table(
        "slot",
        *_plan_key("slot", "cohort"),
        sa.Column("numbers", _text(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("n_failures", sa.Integer, nullable=False),
        sa.Column("failure", _text(), nullable=False),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("lease_until", sa.Double),
        sa.Column("claimed_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        _to_plan("slot"),
        sa.CheckConstraint(
            "state IN ('free', 'claimed', 'finished')", name=op.f("ck_esgd_slot_state")
        ),
        sa.CheckConstraint(
            "state <> 'claimed' OR lease_until IS NOT NULL", name=op.f("ck_esgd_slot_lease")
        ),
    )


def _create_individual() -> None:
    _table(
        "individual",
        *_plan_key("individual", "number"),
        sa.Column("birth", sa.String(16), nullable=False),
        sa.Column("origin", sa.String(64)),
        sa.Column("parents", _text(), nullable=False),
        sa.Column("mutation_scale", sa.Double, nullable=False),
        sa.Column("species", sa.String(255), nullable=False),
        sa.Column("hyperparameters", _text(), nullable=False),
        sa.Column("inherits_optimizer_state", sa.Boolean, nullable=False),
        sa.Column("birth_fitness", sa.Double),
        sa.Column("birth_diverged", sa.Boolean, nullable=False),
        sa.Column("fitness", sa.Double),
        sa.Column("diverged", sa.Boolean, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
        sa.Column("weights_digest", sa.String(32)),
        sa.Column("weights", sa.String(32)),
        sa.Column("optimizer_state", sa.String(32)),
        sa.Column("trial_number", sa.Integer),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("n_back_offs", sa.Integer, nullable=False),
        sa.Column("n_epochs", sa.Integer, nullable=False),
        sa.Column("n_gradients", sa.BigInteger, nullable=False),
        sa.Column("n_evaluations", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.String(255), nullable=False),
        _to_plan("individual"),
        _to_snapshot("individual", "weights"),
        _to_snapshot("individual", "optimizer_state"),
        sa.UniqueConstraint(
            "study_uuid", "trial_number", name="uq_esgd_individual_study_uuid_trial_number"
        ),
    )
    _index_individual()


def _index_individual() -> None:
    op.create_index(
        "ix_esgd_individual_next",
        "esgd_individual",
        ["study_uuid", "round", "trial_number", "generation", "number"],
        postgresql_where=sa.text("round = 0 AND trial_number IS NULL"),
        sqlite_where=sa.text("round = 0 AND trial_number IS NULL"),
    )
    for column in ("weights", "optimizer_state"):
        op.create_index(f"ix_esgd_individual_{column}", "esgd_individual", [column])


def _create_artifact() -> None:
    _table(
        "artifact",
        sa.Column("artifact_id", sa.String(255), nullable=False),
        sa.Column("snapshot", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("artifact_id", name="pk_esgd_artifact"),
        _to_snapshot("artifact", "snapshot"),
    )
    op.create_index("ix_esgd_artifact_snapshot", "esgd_artifact", ["snapshot"])
