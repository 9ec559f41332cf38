"""Whoever can write into the database can spoil a run, but not run code, nor fill the memory."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.artifacts.exceptions import ArtifactNotFound

from optuna_esgd.engine.individual import Reference
from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.errors import ConfigurationError, CorruptionError, EsgdError
from optuna_esgd.genome.codec import decode
from optuna_esgd.store.artifacts import SqlArtifactStore
from optuna_esgd.store.chunks import (
    CHUNK_BYTES,
    MOST_MANIFEST_BYTES,
    Link,
    Listing,
    check_listing,
    pack,
    payload_size,
    snapshot_digest,
)
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.tables import chunk, individual, link, snapshot
from optuna_esgd.store.transactions import write
from optuna_esgd.testing.examples import finish_generation
from tests.faults.small_run import open_study, result, run
from tests.store.populations import make_population

_FIRST = Reference(0, 0, 0)
_MOST_BYTES = 64 * 2**20

_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.integers(-3, 9), st.floats(), st.booleans(), st.none()
)
_ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BOOL", "F128", ""]) | st.integers(),
            "shape": st.lists(_NUMBERS, max_size=4) | _NUMBERS,
            "data_offsets": st.lists(_NUMBERS, max_size=3) | _NUMBERS,
        }
    ),
    _NUMBERS,
    st.lists(_NUMBERS, max_size=2),
)
_MANIFESTS = st.dictionaries(st.text(max_size=3), _ENTRIES, max_size=4).map(json.dumps)
_HOSTILE = {
    "infinite": '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}',
    "many digits": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,' + "9" * 9999 + "]}}",
    "deep": "[" * 10**6,
    "deep tensor": '{"a":' + '{"a":' * 10**5,
    "huge": '{"a":{"dtype":"F64","shape":[1099511627776],"data_offsets":[0,8796093022208]}}',
    "negative": '{"a":{"dtype":"U8","shape":[-4],"data_offsets":[4,0]}}',
    "overlapping": '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
    '"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
    "empty but endless": '{"a":{"dtype":"U8","shape":[0,4611686018427387904,8],'
    '"data_offsets":[0,0]}}',
}


@pytest.fixture
def population(database_url: str) -> SqlPopulation:
    made = make_population(database_url, {})
    finish_generation(made, 0, n_bytes=CHUNK_BYTES + 9)
    return made


def spoil(population: SqlPopulation, statement: sa.Executable) -> None:
    write(population.database, lambda connection: connection.execute(statement).rowcount)


def digest_of_first(population: SqlPopulation) -> str:
    digest = population.individuals()[0].weights
    assert digest is not None
    return digest


def largest_use(act: Callable[[], object]) -> int:
    """The bytes that Python's memory grew by, at most."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(_MANIFESTS, st.binary(max_size=9))
def test_any_manifest_is_read_or_refused(manifest: str, payload: bytes) -> None:
    assert isinstance(payload_size(manifest.encode()), int)
    try:
        tensors = decode(manifest.encode(), payload)
    except CorruptionError:
        return
    assert sum(one.numel() * one.element_size() for one in tensors.values()) == len(payload)


@pytest.mark.parametrize("manifest", _HOSTILE.values(), ids=_HOSTILE)
def test_no_manifest_takes_more_memory_than_it_is_long(manifest: str) -> None:
    def read() -> None:
        payload_size(manifest.encode())
        with pytest.raises(CorruptionError):
            decode(manifest.encode(), bytes(4))

    assert largest_use(read) < _MOST_BYTES


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.just(CHUNK_BYTES), max_size=4),
)
def test_sizes_that_contradict_each_other_are_refused(n_bytes: int, sizes: list[int]) -> None:
    manifest = json.dumps(
        {"a": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}
    ).encode()
    links = tuple(Link("0" * 32, size) for size in sizes)
    digest = snapshot_digest(manifest, [one.chunk for one in links])
    full = [CHUNK_BYTES] * (len(sizes) - 1)
    is_cut_right = sizes[:-1] == full and all(0 < one <= CHUNK_BYTES for one in sizes[-1:])
    is_right = sum(sizes) == n_bytes and is_cut_right
    try:
        check_listing("it", Listing(digest, manifest, n_bytes, links))
    except CorruptionError:
        assert not is_right
    else:
        assert is_right


@pytest.mark.parametrize("n_bytes", [-1, 0, 7, CHUNK_BYTES, 2**40, 2**62])
def test_a_false_size_of_a_snapshot_allocates_nothing(
    population: SqlPopulation, n_bytes: int
) -> None:
    mine = snapshot.c.digest == digest_of_first(population)
    spoil(population, sa.update(snapshot).where(mine).values(n_bytes=n_bytes))

    def read() -> None:
        with pytest.raises(EsgdError, match=r"contradict|memory|digest"):
            population.read_weights(_FIRST)

    assert largest_use(read) < _MOST_BYTES


def test_one_chunk_linked_without_end_allocates_nothing(population: SqlPopulation) -> None:
    """A thousand links to a chunk that says it has a terabyte."""
    digest = digest_of_first(population)
    query = sa.select(link.c.chunk).where(link.c.snapshot == digest).limit(1)
    name = write(population.database, lambda connection: connection.scalar(query))
    rows = [{"snapshot": digest, "position": 10 + n, "chunk": name} for n in range(1000)]
    write(population.database, lambda c: c.execute(sa.insert(link), rows).rowcount)
    spoil(population, sa.update(chunk).where(chunk.c.digest == name).values(n_bytes=2**40))
    assert largest_use(lambda: _refused(population)) < _MOST_BYTES


@pytest.mark.parametrize("column", ["manifest", "payload"])
def test_what_is_too_large_is_not_fetched(population: SqlPopulation, column: str) -> None:
    large = bytes(4 * CHUNK_BYTES if column == "payload" else MOST_MANIFEST_BYTES + 1)
    if population.database.kind == "mysql" and column == "manifest":
        pytest.skip("MariaDB takes no packet of this size")
    table = snapshot if column == "manifest" else chunk
    spoil(population, sa.update(table).values({column: large}))
    assert largest_use(lambda: _refused(population)) < len(large) / 2


@pytest.mark.parametrize("text", ["[" * 10**5, "{", "NaN]"])
def test_damaged_values_are_said_so(population: SqlPopulation, text: str) -> None:
    spoil(population, sa.update(individual).values(parents=text))
    with pytest.raises(CorruptionError, match="not JSON"):
        population.individuals()


def test_a_manifest_that_nobody_would_read_is_not_written(population: SqlPopulation) -> None:
    with pytest.raises(ConfigurationError, match="too many tensors"):
        pack(Snapshot(b"{}" + b" " * MOST_MANIFEST_BYTES, b""))


def test_impossible_artifacts_are_refused(database_url: str) -> None:
    store = SqlArtifactStore(database_url)
    store.write("a", io.BytesIO(bytes(10)))
    for n_bytes in (-5, 0, 2**50):
        with store._database.engine.begin() as connection:
            connection.execute(sa.update(chunk).values(n_bytes=n_bytes))
        with pytest.raises(CorruptionError, match="impossible"):
            store.open_reader("a")
    with pytest.raises(ArtifactNotFound):
        store.open_reader("b")


def test_a_whole_run_pickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when weights are written nor when they are read, by another process as well."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("something was pickled")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refuse)
    url = f"sqlite:///{tmp_path}/a.db"
    run(url)
    assert result(open_study(url))


def _refused(population: SqlPopulation) -> None:
    with pytest.raises(CorruptionError):
        population.read_weights(_FIRST)
