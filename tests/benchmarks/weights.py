"""Weights into a database and back, and files by way of Optuna's artifact interface.

    python -m tests.benchmarks.weights                     # SQLite
    python -m tests.benchmarks.weights postgresql://postgres@127.0.0.1/empty mysql://root@...

1 is ``torch.save`` and ``fsync`` for writing, a warm ``torch.load`` for reading. Both begin or end
with a state dict in memory. What is read is compared with what was written. Servers: the databases
must be there, empty.

Before each turn what was stored earlier goes, as garbage does and as ``torch.save`` replaces its
file, and the disk comes to rest: SQLite's log has been merged if it was long, and the system has
written what it held back. So ``torch.save``, which waits for the disk, does not wait for what a
database left to be written; "write" is what a worker waits for, with the merging off its path, and
"write + checkpoint" is everything.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
import torch
from torch import Tensor

from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.genome.codec import adopt, encode
from optuna_esgd.store import schema, weights
from optuna_esgd.store.artifacts import SqlArtifactStore
from optuna_esgd.store.chunks import pack
from optuna_esgd.store.collection import sweep
from optuna_esgd.store.engines import Database, describe, open_database, parse_url
from optuna_esgd.store.tables import artifact, chunk
from optuna_esgd.store.transactions import read, write
from tests.benchmarks.harness import Report, Row, Timing, take_turns

_MB = 10**6
Goals = dict[str, float]
# By size in MB.
_OURS: dict[int, Goals] = {
    4: {"write": 1.3, "read": 1.5},
    40: {"write": 1.1, "write + checkpoint": 0.6, "read": 1.0},
    400: {"read": 1.2},
}
_LARGE_MB = 100
_OPTUNAS: Goals = {"write": 0.55, "read": 0.6}
_SERVERS: dict[str, Goals] = {
    "postgresql": {"write": 0.45, "read": 0.4},
    "mysql": {"write": 0.7, "read": 0.5},
}
_ARTIFACTS: Goals = {"write": 1.5, "read": 3.0}


class Weights:
    """Tensors of some size, other ones at each call."""

    def __init__(self, n_bytes: int) -> None:
        self.tensors = {f"layer {i}": torch.randn(n_bytes // 16) for i in range(4)}
        self._n_changes = 0

    def changed(self) -> dict[str, Tensor]:
        """The same tensors with every chunk of theirs changed."""
        self._n_changes += 1
        for tensor in self.tensors.values():
            tensor[:: 2**17] = self._n_changes + torch.rand(len(tensor[:: 2**17]))
        return self.tensors


class Stored:
    """One database that weights are put into, a new snapshot each time."""

    def __init__(self, database: Database, given: Weights) -> None:
        self._database = database
        self._given = given
        self._digest = ""
        schema.ensure_schema(database)

    def put(self) -> int:
        """As a finished slot does: chunks first, then one small transaction; new bytes stored."""
        packed = pack(Snapshot(*encode(self._given.changed())))
        if not weights.are_small(packed.chunks):
            weights.upload(self._database, packed.chunks)

        def use(connection: sa.Connection) -> None:
            if weights.are_small(packed.chunks):
                weights.insert_chunks(connection, packed.chunks)
            weights.insert_snapshots(connection, [packed.listing])
            row = {"snapshot": packed.listing.digest, "created_at": 0.0}
            if connection.execute(sa.update(artifact).values(row)).rowcount == 0:
                connection.execute(sa.insert(artifact).values(artifact_id="used", **row))

        write(self._database, use)
        self._digest = packed.listing.digest
        return packed.listing.n_bytes

    def put_and_checkpoint(self) -> None:
        """The same, with the log merged into the file before it counts as done."""
        self.put()
        self.checkpoint()

    def checkpoint(self) -> None:
        """Merge SQLite's log into the file."""
        with self._database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def get(self) -> dict[str, Tensor]:
        """Read what was put last, every byte checked."""
        snapshot = read(self._database, weights.read_snapshot, self._digest, "the benchmark's")
        return adopt(snapshot.manifest, snapshot.payload)

    def n_stored_bytes(self) -> int:
        """Payload bytes in the database."""
        query = sa.select(sa.func.sum(chunk.c.n_bytes))
        return int(read(self._database, lambda connection: connection.scalar(query)) or 0)

    def settle(self) -> None:
        """Collect what was put earlier, and let everything be written that was left for later."""
        sweep(self._database, grace_seconds=0)
        if self._database.kind == "postgresql":  # as it does by itself after a while
            with self._database.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql(f"VACUUM {chunk.name}")
        self._database.wait_for_log()
        _rest()

    def check(self) -> None:
        """What is read is what was written."""
        again = self.get()
        if not all(torch.equal(again[name], one) for name, one in self._given.tensors.items()):
            raise AssertionError("Other weights were read than were written.")


def _rest() -> None:
    """Let the disk come to rest, and Python have no garbage to look for."""
    os.sync()
    gc.collect()


def _make_as_optuna_does(path: Path) -> None:
    """A file as ``optuna.create_study(storage="sqlite:///...")`` makes it."""
    optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()


def _compare(
    database: Database, n_bytes: int, folder: Path, n_rounds: int, *, is_sqlite: bool
) -> dict[str, Timing]:
    given = Weights(n_bytes)
    stored, path = Stored(database, given), folder / "saved.pt"

    def save() -> None:
        with path.open("wb") as file:
            torch.save(given.changed(), file)
            file.flush()
            os.fsync(file.fileno())

    save()
    stored.put()
    stored.check()
    files = optuna.artifacts.FileSystemArtifactStore(str(folder))

    def save_as_artifact() -> None:
        content = io.BytesIO()
        torch.save(given.changed(), content)
        content.seek(0)
        files.write("weights", content)

    def load_from_artifact() -> dict[str, Tensor]:
        with files.open_reader("weights") as reader:
            loaded: dict[str, Tensor] = torch.load(io.BytesIO(reader.read()))
            return loaded

    save_as_artifact()
    turns: dict[str, Callable[[], object]] = {
        "torch.save": save,
        "torch.load": lambda: torch.load(path),
        "write": stored.put,
        "read": stored.get,
    }
    if is_sqlite:
        turns["write + checkpoint"] = stored.put_and_checkpoint
        turns["file store's write"] = save_as_artifact
        turns["file store's read"] = load_from_artifact
    timings = take_turns(turns, n_rounds=n_rounds, settle=stored.settle)
    stored.put()
    stored.check()
    n_before = stored.n_stored_bytes()
    packed = pack(Snapshot(*encode(given.tensors)))
    weights.upload(database, packed.chunks)
    if stored.n_stored_bytes() != n_before:
        raise AssertionError("Unchanged weights were stored again.")
    return timings


def _rows(where: str, n_bytes: int, timings: dict[str, Timing], goals: Goals) -> list[Row]:
    size = f"{n_bytes / _MB:g} MB"
    return [
        Row(
            f"{where}, {size}: {what}",
            timings["torch.load" if what == "read" else "torch.save"].median
            / timings[what].median,
            goal=goals.get(what),
            notes=f"{n_bytes / _MB / timings[what].median:.0f} MB/s",
        )
        for what in ("write", "write + checkpoint", "read")
        if what in timings
    ]


def _rows_against_file_store(where: str, n_bytes: int, timings: dict[str, Timing]) -> list[Row]:
    return [
        Row(
            f"{where}, {n_bytes / _MB:g} MB: {what}, against Optuna's file store",
            timings[f"file store's {what}"].median / timings[what].median,
            goal=goal,
            notes="1 = the same weights by torch.save, torch.load and the file store",
        )
        for what, goal in _ARTIFACTS.items()
    ]


def _artifacts(url: str, n_bytes: int, folder: Path, n_rounds: int) -> dict[str, Timing]:
    """Through Optuna's own functions' way of copying, new content each time."""
    files = optuna.artifacts.FileSystemArtifactStore(str(folder))
    stores: dict[str, Any] = {"files": files, "ours": SqlArtifactStore(url)}
    content = bytearray(os.urandom(n_bytes))
    numbers = dict.fromkeys(stores, 0)
    kept = dict.fromkeys(stores, 1)

    def put(name: str) -> None:
        numbers[name] += 1
        for start in range(0, n_bytes, 2**19):
            content[start] = numbers[name] % 256
            content[start + 1] = numbers[name] // 256
        stores[name].write(f"artifact {numbers[name]}", io.BytesIO(content))

    def get(name: str) -> bytes:
        with stores[name].open_reader(f"artifact {numbers[name]}") as reader:
            return bytes(reader.read())

    def settle() -> None:
        for name, store in stores.items():
            while kept[name] < numbers[name]:
                store.remove(f"artifact {kept[name]}")
                kept[name] += 1
        open_database(url).wait_for_log()
        _rest()

    for name in stores:
        put(name)
        if get(name) != content:
            raise AssertionError(f"Another artifact was read from {name} than was written.")
    return take_turns(
        {
            f"{what} {name}": (lambda do=do, name=name: do(name))  # type: ignore[misc]
            for what, do in (("write", put), ("read", get))
            for name in stores
        },
        n_rounds=n_rounds,
        settle=settle,
    )


def measure(
    urls: Sequence[str] = (), *, sizes_mb: Sequence[float] = (4, 40), n_rounds: int = 7
) -> Report:
    """Measure SQLite, and servers.

    Args:
        urls: Of empty databases on servers; SQLite files are made here if none is given.
        sizes_mb: Of the weights, in MB.
        n_rounds: How often everything is measured; hundreds of MB half as often.
    """
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        for size in sizes_mb:
            n_bytes = int(size * _MB)
            n_turns = n_rounds if size < _LARGE_MB else max(1, n_rounds // 2)
            for where, database, goals in _databases(urls, folder, size):
                is_sqlite = database.kind == "sqlite"
                timings = _compare(database, n_bytes, folder, n_turns, is_sqlite=is_sqlite)
                rows += _rows(where, n_bytes, timings, goals)
                if goals is _OURS.get(int(size)):
                    rows += _rows_against_file_store(where, n_bytes, timings)
                raw[f"{where}, {size} MB"] = {key: asdict(one) for key, one in timings.items()}
                database.close()
            if not urls:
                url = f"sqlite:///{folder / f'artifacts {size}.db'}"
                timings = _artifacts(url, n_bytes, folder, n_turns)
                for what, goal in _ARTIFACTS.items():
                    ratio = timings[f"{what} files"].median / timings[f"{what} ours"].median
                    measured = f"artifacts, {size:g} MB: {what}"
                    notes = "1 = a plain copy by Optuna's file store, which waits for no disk"
                    rows.append(Row(measured, ratio, goal=goal, notes=notes))
                raw[f"artifacts, {size} MB"] = {key: asdict(one) for key, one in timings.items()}
                open_database(url).close()
    sizes = " ".join(f"{size:g}" for size in sizes_mb)
    return Report(
        name="weights_on_servers" if urls else "weights",
        title="Weights into a database and back (1 = torch.save with fsync, torch.load)",
        command=f"python -m tests.benchmarks.weights --sizes {sizes}",
        rows=rows,
        raw=raw,
    )


def _databases(
    urls: Sequence[str], folder: Path, size: float
) -> list[tuple[str, Database, Goals]]:
    if urls:
        databases = [open_database(url) for url in urls]
        return [
            (
                f"{describe(one.url)} by {one.url.get_driver_name()}",
                one,
                _SERVERS.get(one.kind, {}),
            )
            for one in databases
        ]
    ours, optunas = folder / f"ours {size}.db", folder / f"optunas {size}.db"
    _make_as_optuna_does(optunas)
    return [
        ("SQLite, a file of ours", open_database(f"sqlite:///{ours}"), _OURS.get(int(size), {})),
        ("SQLite, a file of Optuna's", open_database(f"sqlite:///{optunas}"), _OPTUNAS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Weights into a database and back.")
    parser.add_argument("urls", nargs="*", help="postgresql://, mysql://; none: SQLite")
    parser.add_argument("--sizes", type=float, nargs="+", default=[4, 40], help="in MB")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    for url in arguments.urls:
        parse_url(url)
    measure(arguments.urls, sizes_mb=arguments.sizes, n_rounds=arguments.rounds).save()


if __name__ == "__main__":
    main()
