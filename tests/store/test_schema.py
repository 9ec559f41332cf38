"""The schema: made once, never migrated silently, and nothing of Optuna's is touched."""

from __future__ import annotations

import multiprocessing
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from optuna_esgd.errors import StorageError
from optuna_esgd.store import schema, tables
from optuna_esgd.store.engines import Database, open_database
from optuna_esgd.store.migrations import upgrade_schema
from optuna_esgd.store.storages import create_storage
from optuna_esgd.store.transactions import read, write
from tests.databases import KINDS, MakeDatabase


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, make_database: MakeDatabase) -> str:
    return make_database(request.param)


def test_made_from_scratch_equals_migrated(make_database: MakeDatabase) -> None:
    for kind in KINDS:
        made, migrated = (open_database(make_database(kind)) for _ in range(2))
        schema.create_schema(made)
        schema._in_turn(migrated, schema._migrate)
        assert _describe(made) == _describe(migrated), kind
        for database in (made, migrated):
            assert read(database, _differences) == [], kind
            assert schema.read_version(database) == schema.HEAD


def test_revisions_are_those_of_the_scripts(make_database: MakeDatabase) -> None:
    database = open_database(make_database("sqlite"))
    with database.engine.connect() as connection:
        scripts = ScriptDirectory.from_config(schema.alembic_configuration(connection))
    found = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(found)) == schema.REVISIONS


def test_optuna_does_not_notice(empty_url: str) -> None:
    """Whoever comes first; neither finds the other's version."""
    schema.create_schema(open_database(empty_url))
    study = optuna.create_study(storage=create_storage(empty_url), study_name="digits")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    before = _describe_optuna(empty_url)
    upgrade_schema(empty_url)
    assert _describe_optuna(empty_url) == before
    again = optuna.load_study(study_name="digits", storage=empty_url)
    assert len(again.trials) == 2


def test_processes_starting_together_all_succeed(empty_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(4) as pool:
        assert pool.map(_ensure, [empty_url] * 4) == [schema.HEAD] * 4


def test_storages_made_together_all_open(empty_url: str) -> None:
    """Optuna alone may fail, or write down its version twice and never open again."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(3) as pool:
        assert len(pool.map(_create_storage, [empty_url] * 3)) == 3


def test_newer_schema_is_refused(empty_url: str) -> None:
    database = open_database(empty_url)
    schema.ensure_schema(database)
    _set_version(database, "9999")
    with pytest.raises(StorageError, match="newer"):
        schema.ensure_schema(database)
    with pytest.raises(StorageError, match="newer"):
        upgrade_schema(empty_url)
    assert schema.read_version(database) == "9999"


def test_older_schema_is_refused_until_upgraded(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(empty_url)
    schema.ensure_schema(database)
    version = schema.HEAD
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9998"))
    monkeypatch.setattr(schema, "HEAD", "9998")
    with pytest.raises(StorageError, match="optuna-esgd storage upgrade"):
        schema.ensure_schema(database)
    assert schema.read_version(database) == version


def test_upgrade_makes_tables_where_there_are_none(empty_url: str) -> None:
    upgrade_schema(empty_url)
    upgrade_schema(empty_url)
    assert schema.read_version(open_database(empty_url)) == schema.HEAD


def test_tables_of_a_process_that_died_are_completed(make_database: MakeDatabase) -> None:
    """MySQL commits at every CREATE TABLE."""
    database = open_database(make_database("mysql"))
    with database.engine.begin() as connection:
        tables.metadata.create_all(connection, tables=[tables.study, tables.plan])
    schema.ensure_schema(database)
    assert read(database, _differences) == []
    assert schema.read_version(database) == schema.HEAD


def test_payloads_are_stored_as_they_are(make_database: MakeDatabase) -> None:
    database = open_database(make_database("postgresql"))
    schema.create_schema(database)
    query = sa.text(
        "SELECT attstorage FROM pg_attribute "
        "WHERE attrelid = 'esgd_chunk'::regclass AND attname = 'payload'"
    )
    assert read(database, lambda connection: connection.scalar(query)) in ("e", b"e")


def test_mysql_tables_are_innodb(make_database: MakeDatabase) -> None:
    database = open_database(make_database("mysql"))
    schema.create_schema(database)
    query = sa.text(
        "SELECT DISTINCT engine, table_collation FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND table_name IN ('esgd_study', 'esgd_chunk')"
    )
    rows = read(database, lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in rows] == [("InnoDB", "utf8mb4_bin")]


def _differences(connection: sa.Connection) -> list[object]:
    """What alembic would still change, and only in our tables."""

    def is_ours(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or (name or "").startswith(tables.PREFIX)

    options = {"version_table": schema.VERSION_TABLE, "include_name": is_ours}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, tables.metadata))


def _describe(database: Database) -> dict[str, object]:
    """Everything the database says about our tables."""
    return read(database, _describe_tables)


def _describe_tables(connection: sa.Connection) -> dict[str, object]:
    inspector = sa.inspect(connection)
    return {
        name: (
            sorted((str(c["name"]), str(c["type"]), c["nullable"], c["default"]) for c in columns),
            inspector.get_pk_constraint(name),
            sorted(inspector.get_foreign_keys(name), key=str),
            sorted(inspector.get_unique_constraints(name), key=str),
            sorted(inspector.get_check_constraints(name), key=str),
            sorted(_describe_index(index) for index in inspector.get_indexes(name)),
        )
        for name in sorted(inspector.get_table_names())
        if name.startswith(tables.PREFIX)
        for columns in [inspector.get_columns(name)]
    }


def _describe_index(index: Any) -> str:
    options = {name: str(option) for name, option in index.pop("dialect_options", {}).items()}
    return f"{sorted(index.items())} {sorted(options.items())}"


def _describe_optuna(url: str) -> list[object]:
    def describe(connection: sa.Connection) -> list[object]:
        names = sa.inspect(connection).get_table_names()
        theirs = sorted(name for name in names if not name.startswith(tables.PREFIX))
        rows = connection.execute(sa.text("SELECT version_num FROM alembic_version"))
        return [*theirs, *(tuple(row) for row in rows)]

    return read(open_database(url), describe)


def _set_version(database: Database, version: str) -> None:
    table = sa.table(schema.VERSION_TABLE, sa.column("version_num"))
    write(database, lambda c: c.execute(sa.update(table).values(version_num=version)))


def _ensure(url: str) -> str | None:
    database = open_database(url)
    schema.ensure_schema(database)
    return schema.read_version(database)


def _create_storage(url: str) -> str:
    return str(create_storage(url).url)
