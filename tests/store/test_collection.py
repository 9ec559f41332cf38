"""The database stays as small as the population that lives in it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Claim, Reference, SlotKey
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.errors import CorruptionError
from optuna_esgd.store import weights
from optuna_esgd.store.chunks import pack
from optuna_esgd.store.engines import open_database
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.tables import chunk, link, snapshot
from optuna_esgd.store.transactions import write
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.examples import (
    example_configuration,
    example_plan,
    example_snapshot,
    finish_generation,
    outcome,
    take,
    weights_of,
)
from optuna_esgd.testing.runs import run
from tests.databases import Databases
from tests.store.populations import count_rows, damage, make_population


def test_fifty_generations_take_no_more_than_three(tmp_path: Path) -> None:
    """Bytes, rows, and the file itself."""
    n_bytes = 100_000
    configuration = example_configuration(n_generations=50)
    path = tmp_path / "esgd.db"
    population = make_population(f"sqlite:///{path}", configuration.to_json())
    sizes = []

    class Watched(SqlPopulation):
        def collect_garbage(self, *, grace_seconds: float = 0.0) -> int:
            freed = super().collect_garbage(grace_seconds=grace_seconds)
            sizes.append(self.stored_bytes())
            return freed

    watched = Watched(population.database, population.uuid, population.configuration)
    run(watched, configuration, n_bytes=n_bytes)
    assert verify(population, configuration) == []
    most = (2 * configuration.population_size + 2) * n_bytes + 8 * 100
    assert len(sizes) == 50
    assert max(sizes) <= most
    population.collect_garbage()
    assert count_rows(population.database, snapshot) <= 20
    assert count_rows(population.database, chunk) <= 20
    population.database.close()
    assert path.stat().st_size < 4 * most


def test_many_generations_in_memory_are_bounded_too() -> None:
    configuration = example_configuration(n_generations=50)
    population = MemoryPopulation(configuration.to_json())
    run(population, configuration)
    population.collect_garbage()
    assert verify(population, configuration) == []
    assert population.stored_bytes() <= 9 * 1000 + 8 * 100
    assert len(population._chunks) <= 18


def test_many_asynchronous_generations_in_memory_are_bounded_too() -> None:
    """By who holds a place, and by the parents of what is on its way."""
    configuration = example_configuration(n_generations=50, asynchronous=True)
    population = MemoryPopulation(configuration.to_json())
    run(population, configuration)
    population.collect_garbage()
    assert verify(population, configuration) == []
    assert population.stored_bytes() <= 9 * 1000 + 8 * 100
    assert len(population._chunks) <= 18


def test_chunks_of_other_studies_stay(database_url: str) -> None:
    """Two studies with the same bytes; one of them no longer needs its."""
    mine, other = (make_population(database_url, {}) for _ in range(2))
    shared = example_snapshot("shared", 5000)
    for population in (mine, other):
        population.commit_plan(example_plan(0))
        claim = take(population, SlotKey(0, 0, 0))
        ended = [outcome(0, 9.0, weights=shared), outcome(1, 9.0, weights=shared)]
        assert population.finish(claim, ended)
    for generation in (1, 2):
        finish_generation(mine, generation)
    mine.collect_garbage(grace_seconds=0)
    assert not mine.individuals()[0].is_stored
    assert bytes(other.read_weights(Reference(0, 0, 0)).payload) == shared.payload
    assert other.stored_bytes() == 5000


def test_worker_killed_before_its_commit_leaves_nothing_visible(database_url: str) -> None:
    """Its chunks are there, nobody refers to them, and they go after their time of grace."""
    configuration = example_configuration()
    population = make_population(database_url, configuration.to_json())
    population.commit_plan(example_plan(0))
    database = population.database
    before = count_rows(database, chunk)
    process = multiprocessing.get_context("spawn").Process(
        target=_die_before_commit, args=(database_url, population.uuid)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert count_rows(database, chunk) == before + 3
    assert population.slots()[0].state == "claimed"
    assert all(one.fitness is None and not one.is_stored for one in population.individuals())
    assert population.collect_garbage() == 0
    assert count_rows(database, chunk) == before + 3
    assert population.collect_garbage(grace_seconds=0) > 2**20
    assert count_rows(database, chunk) == before


def test_chunks_collected_before_the_commit_go_up_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector without grace comes between upload and commit, twice."""
    population = make_population(database_url, {})
    population.commit_plan(example_plan(0))
    monkeypatch.setattr(weights, "SMALL_BYTES", 0)
    upload = weights.upload
    n_uploads = 0

    def upload_and_collect(*arguments: object) -> None:
        nonlocal n_uploads
        upload(*arguments)  # type: ignore[arg-type]
        n_uploads += 1
        if n_uploads <= 2:
            assert population.collect_garbage(grace_seconds=0) > 0

    monkeypatch.setattr(weights, "upload", upload_and_collect)
    mine = weights_of(population, Reference(0, 0, 0))
    ended = [outcome(0, weights=mine), outcome(1)]
    assert population.finish(take(population, SlotKey(0, 0, 0)), ended)
    assert n_uploads == 3
    assert bytes(population.read_weights(Reference(0, 0, 0)).payload) == mine.payload


def test_chunk_in_use_cannot_be_deleted(database_url: str) -> None:
    """The foreign key says so, whatever a collector believes."""
    population = make_population(database_url, {})
    finish_generation(population, 0)
    digest = pack(weights_of(population, Reference(0, 0, 0))).chunks[0].digest
    with population.database.engine.connect() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(sa.delete(chunk).where(chunk.c.digest == digest))


def test_damage_in_a_later_chunk_is_named(database_url: str) -> None:
    population = make_population(database_url, example_configuration().to_json())
    finish_generation(population, 0, n_bytes=2 * 2**20 + 100)
    digest = damage(population, Reference(0, 0, 2), position=2)
    with pytest.raises(CorruptionError, match=rf"{digest} \(number 2\).*individual 0\.0\.2"):
        population.read_weights(Reference(0, 0, 2))
    lies = verify(population)
    assert len([lie for lie in lies if digest in lie]) == 1
    for number in (0, 1, 3):
        assert population.read_weights(Reference(0, 0, number))


def test_listing_that_was_changed_is_found(tmp_path: Path) -> None:
    """Sizes are checked before memory is allocated."""
    population = make_population(f"sqlite:///{tmp_path / 'a.db'}", {})
    finish_generation(population, 0)
    one, other, third, _ = population.individuals()
    changes = (
        sa.update(snapshot).where(snapshot.c.digest == one.weights).values(n_bytes=2**40),
        sa.update(snapshot).where(snapshot.c.digest == other.weights).values(manifest=b"{}"),
        sa.delete(link).where(link.c.snapshot == third.weights),
    )
    for change in changes:
        write(population.database, lambda c, change=change: c.execute(change))
    for damaged in (one, other, third):
        with pytest.raises(CorruptionError, match=str(damaged.reference)):
            population.read_weights(damaged.reference)
    assert population.read_weights(Reference(0, 0, 3))


@pytest.mark.parametrize("asynchronous", [False, True], ids=["", "asynchronous"])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_processes_share_one_run(
    kind: str, asynchronous: bool, databases: Databases, tmp_path: Path
) -> None:
    """Three workers, races and all; afterwards everything is true."""
    file = f"sqlite:///{tmp_path / 'a.db'}"
    url = file if kind == "sqlite" else databases.reused(kind)
    configuration = _shared(asynchronous)
    population = make_population(url, configuration.to_json())
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(3) as pool:
        pool.map(_work, [(url, population.uuid, asynchronous)] * 3)
    assert verify(population, configuration) == []
    slots = population.slots()
    assert all(slot.state == "finished" for slot in slots)
    assert len(slots) == 5 * (3 + 2 + asynchronous)


def _shared(asynchronous: bool) -> Configuration:
    return example_configuration(
        n_generations=5, population_size=6, n_elites=2, asynchronous=asynchronous
    )


def _work(place: tuple[str, str, bool]) -> None:
    url, uuid, asynchronous = place
    configuration = _shared(asynchronous)
    population = SqlPopulation(open_database(url), uuid, configuration.to_json())
    run(population, configuration, n_bytes=50_000, worker=f"process {os.getpid()}")


def _die_before_commit(url: str, uuid: str) -> None:
    class Doomed(SqlPopulation):
        def _finish(
            self, connection: sa.Connection, claim: Claim, ended: Sequence[object]
        ) -> bool | None:
            super()._finish(connection, claim, ended)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)
            return None

    population = Doomed(open_database(url), uuid, {})
    claim = take(population, SlotKey(0, 0, 0))
    sizes = (2**20 + 1, 1000)
    weights.SMALL_BYTES = 0
    ended: list[Outcome] = [
        outcome(number, weights=weights_of(population, Reference(0, 0, number), n_bytes))
        for number, n_bytes in enumerate(sizes)
    ]
    population.finish(claim, ended)
