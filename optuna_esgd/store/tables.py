"""The tables, all prefixed ``esgd_``; their constraints carry the algorithm.

No foreign key leads to Optuna's tables: one would make every worker's ``ask`` wait for weights
being written, and ``optuna.delete_study`` silently do nothing. Rows hang on a uuid of our own,
because SQLite hands out the ids of deleted studies again.

Times are seconds since the epoch by the database's clock. MySQL has no infinity, so a diverged
individual has NULL for its fitness and a flag.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

PREFIX = "esgd_"

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# Binary collation: keys differ by case, as they do in SQLite and PostgreSQL.
MYSQL_OPTIONS = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (
        ("engine", "InnoDB"),
        ("charset", "utf8mb4"),
        ("collate", "utf8mb4_bin"),
    )
}


def long_text() -> sa.types.TypeEngine[str]:
    """Text without the 64 kB limit of MySQL's TEXT."""
    return sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def long_bytes() -> sa.types.TypeEngine[bytes]:
    """Bytes without the 64 kB limit of MySQL's BLOB."""
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _table(name: str, *items: sa.schema.SchemaItem) -> sa.Table:
    options: dict[str, Any] = MYSQL_OPTIONS
    return sa.Table(PREFIX + name, metadata, *items, **options)


def _digest(name: str, *items: sa.schema.SchemaItem, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.String(32), *items, **options)


# Which Optuna study a population belongs to: ``home`` is "" for a study in this very database,
# else it names the storage the study lives in. A deleted study's row has no study_id any more.
study = _table(
    "study",
    sa.Column("uuid", sa.String(32), primary_key=True),
    sa.Column("home", sa.String(255), nullable=False),
    sa.Column("study_id", sa.BigInteger),
    sa.Column("study_name", sa.String(512), nullable=False),
    sa.Column("configuration", long_text(), nullable=False),
    sa.Column("layout", long_text()),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("home", "study_id"),
)

plan = _table(
    "plan",
    sa.Column(
        "study_uuid",
        sa.String(32),
        sa.ForeignKey(study.c.uuid, ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("certificate", long_text(), nullable=False),
    sa.Column("committed_at", sa.Double, nullable=False),
)

slot = _table(
    "slot",
    sa.Column("study_uuid", sa.String(32), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cohort", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("numbers", long_text(), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("n_failures", sa.Integer, nullable=False),
    sa.Column("failure", long_text(), nullable=False),
    sa.Column("worker", sa.String(255), nullable=False),
    sa.Column("lease_until", sa.Double),
    sa.Column("claimed_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.ForeignKeyConstraint(
        ["study_uuid", "generation", "round"],
        [plan.c.study_uuid, plan.c.generation, plan.c.round],
        ondelete="CASCADE",
    ),
    sa.CheckConstraint("state IN ('free', 'claimed', 'finished')", name="state"),
    sa.CheckConstraint("state <> 'claimed' OR lease_until IS NOT NULL", name="lease"),
)

snapshot = _table(
    "snapshot",
    _digest("digest", primary_key=True),
    sa.Column("manifest", long_bytes(), nullable=False),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

chunk = _table(
    "chunk",
    _digest("digest", primary_key=True),
    sa.Column("codec", sa.String(16), nullable=False),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("payload", long_bytes(), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

# The key to the chunk, without CASCADE, is what keeps the collector from taking a chunk that a
# writer is just about to use again.
link = _table(
    "link",
    _digest("snapshot", sa.ForeignKey(snapshot.c.digest, ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    _digest("chunk", sa.ForeignKey(chunk.c.digest), nullable=False, index=True),
)

individual = _table(
    "individual",
    sa.Column("study_uuid", sa.String(32), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("birth", sa.String(16), nullable=False),
    sa.Column("origin", sa.String(64)),
    sa.Column("parents", long_text(), nullable=False),
    sa.Column("mutation_scale", sa.Double, nullable=False),
    sa.Column("species", sa.String(255), nullable=False),
    sa.Column("hyperparameters", long_text(), nullable=False),
    sa.Column("inherits_optimizer_state", sa.Boolean, nullable=False),
    sa.Column("birth_fitness", sa.Double),
    sa.Column("birth_diverged", sa.Boolean, nullable=False),
    sa.Column("fitness", sa.Double),
    sa.Column("diverged", sa.Boolean, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
    _digest("weights_digest"),
    _digest("weights", sa.ForeignKey(snapshot.c.digest), index=True),
    _digest("optimizer_state", sa.ForeignKey(snapshot.c.digest), index=True),
    sa.Column("trial_number", sa.Integer),
    sa.Column("shown_until", sa.Double),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("n_back_offs", sa.Integer, nullable=False),
    sa.Column("n_epochs", sa.Integer, nullable=False),
    sa.Column("n_gradients", sa.BigInteger, nullable=False),
    sa.Column("n_evaluations", sa.BigInteger, nullable=False),
    sa.Column("worker", sa.String(255), nullable=False),
    sa.Column("n_forwards", sa.BigInteger, nullable=False, server_default="0"),
    sa.ForeignKeyConstraint(
        ["study_uuid", "generation", "round"],
        [plan.c.study_uuid, plan.c.generation, plan.c.round],
        ondelete="CASCADE",
    ),
    sa.UniqueConstraint("study_uuid", "trial_number"),
    # Finds the next individual to give to a trial among ten thousand. Partial, where databases
    # can: without statistics PostgreSQL would take it where the primary key is meant.
    sa.Index(
        "ix_esgd_individual_next",
        "study_uuid",
        "round",
        "trial_number",
        "generation",
        "number",
        postgresql_where=sa.text("round = 0 AND trial_number IS NULL"),
        sqlite_where=sa.text("round = 0 AND trial_number IS NULL"),
    ),
)

# Running trials, as long as a worker stands by them.
trial = _table(
    "trial",
    sa.Column(
        "study_uuid",
        sa.String(32),
        sa.ForeignKey(study.c.uuid, ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("lease_until", sa.Double, nullable=False),
)

# How far a slot's work had come when it was last saved.
checkpoint = _table(
    "checkpoint",
    sa.Column("study_uuid", sa.String(32), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cohort", sa.Integer, primary_key=True, autoincrement=False),
    _digest("snapshot", sa.ForeignKey(snapshot.c.digest), nullable=False, index=True),
    sa.ForeignKeyConstraint(
        ["study_uuid", "generation", "round", "cohort"],
        [slot.c.study_uuid, slot.c.generation, slot.c.round, slot.c.cohort],
        ondelete="CASCADE",
    ),
)

artifact = _table(
    "artifact",
    sa.Column("artifact_id", sa.String(255), primary_key=True),
    _digest("snapshot", sa.ForeignKey(snapshot.c.digest), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
)


# Compressed TOAST slows reads threefold and saves nothing on float32 (measured).
@sa.event.listens_for(chunk, "after_create")
def _store_payloads_uncompressed(
    target: sa.Table, connection: sa.Connection, **_options: object
) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"ALTER TABLE {target.name} ALTER COLUMN payload SET STORAGE EXTERNAL"
        )
