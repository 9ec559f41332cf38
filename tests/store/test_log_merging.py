"""The write-ahead log is merged beside the work, and what was committed is never lost by it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optuna_esgd.store import log_merging
from optuna_esgd.store.engines import open_database, prepare_sqlite_file
from optuna_esgd.store.log_merging import MOST_LOG_BYTES, LogMerger
from optuna_esgd.store.transactions import read, write

_MIB = 2**20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "esgd.db"
    prepare_sqlite_file(path)
    return path


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process' connection, as it were: it keeps the log and never merges it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE payload (bytes BLOB)")
    connection.execute("INSERT INTO payload VALUES (?)", [os.urandom(3 * _MIB)])
    yield connection
    connection.close()


def test_a_long_log_is_merged(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path.stat().st_size < _MIB
    monkeypatch.setattr(log_merging, "LOG_BYTES", 2 * _MIB)
    merger = LogMerger(path)
    merger.wake()
    merger.wait()
    assert path.stat().st_size > 3 * _MIB
    [length] = writer.execute("SELECT length(bytes) FROM payload").fetchone()
    assert length == 3 * _MIB


def test_a_merged_log_begins_anew(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where something was committed, or read, while it was being merged."""
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM payload").fetchone()
    writer.execute("INSERT INTO payload VALUES (2)")
    connect = sqlite3.connect

    class Slow(sqlite3.Connection):
        def execute(self, statement: str, /, *arguments: Any) -> sqlite3.Cursor:
            result = super().execute(statement, *arguments)
            if "checkpoint" in statement and reader.in_transaction:
                reader.execute("COMMIT")
            return result

    def connect_slowly(place: str, **options: Any) -> sqlite3.Connection:
        return connect(place, factory=Slow, **options)

    monkeypatch.setattr(log_merging, "LOG_BYTES", 1)
    monkeypatch.setattr(sqlite3, "connect", connect_slowly)
    merger = LogMerger(path)
    merger.wake()
    merger.wait()
    reader.close()
    writer.execute("INSERT INTO payload VALUES (3)")
    [(_, n_pages, _)] = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    assert 0 < n_pages < 5


def test_writers_are_not_kept_out(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is merging, by one who is in the middle of a transaction."""
    monkeypatch.setattr(log_merging, "LOG_BYTES", 1)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO payload VALUES (1)")
    merger = LogMerger(path)
    merger.wake()
    merger.wait()
    assert path.stat().st_size > 3 * _MIB
    writer.execute("COMMIT")


def test_a_short_log_is_left_alone(path: Path, writer: sqlite3.Connection) -> None:
    merger = LogMerger(path)
    merger.wake()
    merger.wait()
    assert path.stat().st_size < _MIB


def test_a_reader_in_between_keeps_its_snapshot(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_merging, "LOG_BYTES", 1)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    before = reader.execute("SELECT count(*) FROM payload").fetchone()
    writer.execute("INSERT INTO payload VALUES (zeroblob(1000))")
    merger = LogMerger(path)
    merger.wake()
    merger.wait()
    assert reader.execute("SELECT count(*) FROM payload").fetchone() == before == (1,)
    reader.close()


def test_a_file_that_is_gone_or_none_is_no_concern_of_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    LogMerger(path).wake()
    Path(f"{path}-wal").write_bytes(bytes(log_merging.LOG_BYTES))
    path.write_bytes(b"no database" * 1000)
    merger = LogMerger(path)
    merger.wake()
    merger.wait()


def test_writing_wakes_it_and_commits_do_not_merge(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[Path] = []
    monkeypatch.setattr(LogMerger, "wake", lambda self: woken.append(self._path))
    database = open_database(f"sqlite:///{path}")
    write(database, lambda connection: connection.exec_driver_sql("CREATE TABLE a (b)"))
    assert woken == [path]
    pages = read(database, lambda c: c.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one())
    assert pages == MOST_LOG_BYTES // 65536
    assert woken == [path]
