"""Files in the database, by way of Optuna's own functions."""

from __future__ import annotations

import io
import os
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import download_artifact, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from optuna_esgd.errors import ConfigurationError, CorruptionError
from optuna_esgd.store import weights
from optuna_esgd.store.artifacts import SqlArtifactStore
from optuna_esgd.store.collection import sweep
from optuna_esgd.store.engines import open_database
from optuna_esgd.store.storages import create_storage
from optuna_esgd.store.tables import artifact, chunk, link, snapshot
from tests.store.populations import count_rows
from tests.store.studies import open_small, start

_MIB = 2**20


@pytest.fixture
def store(database_url: str) -> SqlArtifactStore:
    return SqlArtifactStore(database_url)


def test_optuna_uploads_and_downloads(database_url: str, tmp_path: Path) -> None:
    """Beside studies and populations in the same database."""
    study = optuna.create_study(storage=create_storage(database_url))
    start(open_small(study))
    store = SqlArtifactStore(database_url)
    source, target = tmp_path / "model.bin", tmp_path / "again.bin"
    source.write_bytes(os.urandom(2 * _MIB + 17))
    trial = study.ask()
    name = upload_artifact(artifact_store=store, file_path=str(source), study_or_trial=trial)
    study.tell(trial, 1.0)
    sweep(open_database(database_url), grace_seconds=0)
    download_artifact(artifact_store=store, artifact_id=name, file_path=str(target))
    assert target.read_bytes() == source.read_bytes()
    [meta] = get_all_artifact_meta(study.trials[0], storage=study._storage)
    assert (meta.artifact_id, meta.filename) == (name, "model.bin")


@pytest.mark.parametrize("n_bytes", [0, 1, _MIB, 2 * _MIB + 5])
def test_any_size_comes_back(store: SqlArtifactStore, n_bytes: int) -> None:
    content = os.urandom(n_bytes)
    store.write("some name", io.BytesIO(content))
    with store.open_reader("some name") as reader:
        assert reader.read() == content


def test_equal_chunks_before_others_come_back(store: SqlArtifactStore) -> None:
    """Sixteen times the same is little to store, but not all there is."""
    content = bytes(17 * _MIB) + os.urandom(3 * _MIB + 1)
    store.write("mostly empty", io.BytesIO(content))
    with store.open_reader("mostly empty") as reader:
        assert reader.read() == content


def test_reading_all_goes_on_from_where_one_is(store: SqlArtifactStore) -> None:
    content = os.urandom(3 * _MIB + 100)
    store.write("it", io.BytesIO(content))
    into = bytearray(4 * _MIB)
    with store.open_reader("it") as reader:
        assert reader.read(7) == content[:7]
        assert reader.read() == content[7:]
        assert reader.read() == b""
        reader.seek(_MIB)
        assert reader.readinto(into) == 2 * _MIB + 100  # type: ignore[attr-defined]
        assert into[: 2 * _MIB + 100] == content[_MIB:]
        reader.seek(5 * _MIB)
        assert reader.read() == b""
        reader.seek(_MIB - 1)
        assert reader.read(2 * _MIB) == content[_MIB - 1 : 3 * _MIB - 1]


def test_reader_can_be_read_in_parts_and_moved(store: SqlArtifactStore) -> None:
    content = os.urandom(_MIB + 100)
    store.write("parts", io.BytesIO(content))
    with store.open_reader("parts") as reader:
        assert reader.read(10) == content[:10]
        assert reader.seek(_MIB - 5) == _MIB - 5
        assert reader.read(10) == content[_MIB - 5 : _MIB + 5]
        reader.seek(-3, os.SEEK_END)
        assert reader.read() == content[-3:]
        assert reader.read() == b""


def test_streams_that_cannot_go_back_are_fine(store: SqlArtifactStore) -> None:
    """A pipe, say, that gives a little at a time."""

    class Pipe(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self._rest = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self._rest.read(min(size, 1000) if size >= 0 else 1000)

    content = os.urandom(_MIB + 7)
    store.write("piped", Pipe(content))  # type: ignore[arg-type]
    with store.open_reader("piped") as reader:
        assert reader.read() == content


def test_missing_artifacts_are_optunas_error(store: SqlArtifactStore) -> None:
    with pytest.raises(ArtifactNotFound, match="'nobody'"):
        store.open_reader("nobody")
    with pytest.raises(ArtifactNotFound, match="'nobody'"):
        store.remove("nobody")


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_impossible_names_are_refused(store: SqlArtifactStore, name: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 255"):
        store.write(name, io.BytesIO(b"any"))


def test_names_differ_by_case(store: SqlArtifactStore) -> None:
    store.write("a", io.BytesIO(b"small"))
    store.write("A", io.BytesIO(b"large"))
    assert store.open_reader("a").read() == b"small"


def test_writing_again_replaces(store: SqlArtifactStore, database_url: str) -> None:
    for content in (b"first", b"second"):
        store.write("it", io.BytesIO(content))
    assert store.open_reader("it").read() == b"second"
    database = open_database(database_url)
    sweep(database, grace_seconds=0)
    assert [count_rows(database, table) for table in (artifact, snapshot, chunk)] == [1, 1, 1]


def test_removed_artifact_leaves_nothing(store: SqlArtifactStore, database_url: str) -> None:
    store.write("one", io.BytesIO(b"the same"))
    store.write("other", io.BytesIO(b"the same"))
    database = open_database(database_url)
    assert count_rows(database, chunk) == 1
    store.remove("one")
    assert store.open_reader("other").read() == b"the same"
    store.remove("other")
    tables = (artifact, snapshot, link, chunk)
    assert [count_rows(database, table) for table in tables] == [0, 0, 0, 0]


def test_chunks_collected_before_the_commit_go_up_again(
    store: SqlArtifactStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, n_uploads = weights.upload, 0

    def upload_and_collect(*arguments: object) -> None:
        nonlocal n_uploads
        upload(*arguments)  # type: ignore[arg-type]
        n_uploads += 1
        if n_uploads == 1:
            assert sweep(open_database(database_url), grace_seconds=0) > 0

    monkeypatch.setattr(weights, "upload", upload_and_collect)
    content = os.urandom(weights.SMALL_BYTES + 1)  # small ones commit with their name
    store.write("it", io.BytesIO(content))
    assert n_uploads == 2
    assert store.open_reader("it").read() == content


def test_damage_is_found(store: SqlArtifactStore, database_url: str) -> None:
    store.write("it", io.BytesIO(b"content"))
    with open_database(database_url).engine.begin() as connection:
        connection.execute(chunk.update().values(payload=b"cOntent"))
    with pytest.raises(CorruptionError, match="artifact 'it'"):
        store.open_reader("it").read()
