"""Connections that break at any statement or commit, and servers that crash under load."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.examples import example_configuration
from optuna_esgd.testing.runs import run
from optuna_esgd.trainer.loop import WorkLoop
from tests.benchmarks.utilisation import Load, SleepingWorkshop
from tests.databases import Databases
from tests.faults.cuts import cutting
from tests.faults.extent import sampled
from tests.faults.servers import private_server
from tests.store.populations import make_population

_SHORT = example_configuration(n_generations=2)
_LONG = example_configuration(n_generations=12)
_N_WORKERS, _N_CRASHES = 3, 3


def bits(population: Population) -> list[Individual]:
    """Everybody, whoever did the work and whatever has been collected since."""
    everyone = population.individuals()
    return [replace(one, worker="", is_stored=False) for one in everyone]


def undisturbed(population: Population, configuration: Configuration) -> list[Individual]:
    """What a population in memory makes of it."""
    memory = MemoryPopulation(configuration.to_json(), uuid=population.uuid)
    run(memory, configuration)
    return bits(memory)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_cut_connection_goes_unnoticed(kind: str, databases: Databases) -> None:
    """Wherever it is cut: the transaction is run again, also if only its answer was lost."""
    url = databases.shared(kind)
    with cutting(url) as cuts:
        run(make_population(url, _SHORT.to_json()), _SHORT)
    for point in sampled(cuts.n_points, 17):
        population = make_population(url, _SHORT.to_json())
        with cutting(url, point):
            run(population, _SHORT)
        assert bits(population) == undisturbed(population, _SHORT), point
        assert verify(population) == []


def work(population: Population, configuration: Configuration) -> None:
    """Work as a worker does, who claims the next slot when it finishes one."""
    workshop = SleepingWorkshop(Load(mean_seconds=0.0))
    loop = WorkLoop(population, configuration, explore_nothing, workshop)
    with loop.working_ahead():
        while loop.act(loop.decide()):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("short_seconds", [0.0, math.inf])
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_connection_that_is_cut_when_going_on_goes_unnoticed(
    kind: str, short_seconds: float, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if only the answer was lost: each slot is claimed once, and by this worker."""
    monkeypatch.setattr("optuna_esgd.store.write_behind._SHORT_SECONDS", short_seconds)
    url = databases.shared(kind)
    with cutting(url) as cuts:
        work(make_population(url, _SHORT.to_json()), _SHORT)
    for point in sampled(cuts.n_points, 7):
        population = make_population(url, _SHORT.to_json())
        memory = MemoryPopulation(_SHORT.to_json(), uuid=population.uuid)
        with cutting(url, point):
            work(population, _SHORT)
        work(memory, _SHORT)
        assert bits(population) == bits(memory), point
        assert verify(population) == []
        assert all(slot.attempt == 1 for slot in population.slots()), point


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_server_that_crashes_goes_unnoticed(kind: str) -> None:
    """Workers wait until it is back; the generations that are done say when it crashes."""
    with private_server(kind) as server, ThreadPoolExecutor(_N_WORKERS) as threads:
        population = make_population(server.url, _LONG.to_json())
        names = [f"worker {number}" for number in range(_N_WORKERS)]
        workers = [threads.submit(run, population, _LONG, worker=name) for name in names]
        for generation in range(2, 2 + 3 * _N_CRASHES, 3):
            while population.facts().generation < generation:
                wait(workers, timeout=0.01)
            assert not any(worker.done() for worker in workers)
            server.restart()
        for worker in workers:
            worker.result()
        assert verify(population, _LONG) == []
        assert bits(population) == undisturbed(population, _LONG)
        population.database.close()
