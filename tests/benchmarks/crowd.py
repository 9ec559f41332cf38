"""Many workers through Optuna: what ``optuna-esgd worker`` does, with training that costs nothing.

    python -m tests.benchmarks.crowd --workers 64

A PostgreSQL server of its own takes as many connections as are needed. The population is worked
off three times: by one worker, by many, and by many whose trials go through Optuna's gRPC proxy
while their weights go straight to the database. All three must end with the same bits.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import GrpcStorageProxy
from optuna.trial import TrialState

import optuna_esgd as esgd
from optuna_esgd.store.opening import find_population
from optuna_esgd.store.verification import verify, verify_trials
from optuna_esgd.trainer.preemption import Preemption
from optuna_esgd.worker.work import work
from tests.benchmarks.harness import Report, Row
from tests.benchmarks.workers import Retries, log_retries
from tests.faults.failpoints import counting
from tests.faults.proxies import proxy
from tests.faults.servers import PrivateServer, private_server
from tests.faults.small_run import SPECIES, Parabola, prepare
from tests.faults.workers import CONTEXT, end, start

_STUDY = "crowd"


@dataclass(frozen=True)
class Crowd:
    """What is worked off.

    Attributes:
        n_workers: Processes.
        population_size: μ; every individual is a slot of its own.
        n_generations: K.
    """

    n_workers: int
    population_size: int = 128
    n_generations: int = 3

    @property
    def n_trials(self) -> int:
        """Trials of the finished study."""
        return self.population_size * self.n_generations

    def open(self, storage: Any) -> optuna.Study:
        """The study, made if need be."""
        sampler = esgd.ESGDSampler(
            self.population_size,
            seed=3,
            n_offspring=self.population_size,
            n_epochs=1,
            n_generations=self.n_generations,
        )
        return optuna.create_study(
            study_name=_STUDY,
            storage=storage,
            sampler=sampler,
            load_if_exists=True,
        )


@dataclass(frozen=True)
class Run:
    """One way through, measured.

    Attributes:
        seconds: From the first worker's start to the last one's end.
        n_statements: Of all workers on the database itself; what a proxy asks is not counted.
        n_commits: Likewise.
        n_retries: Transactions that were run again, by what was in their way.
        n_failed: Trials that another one was made for.
        n_repeated: Claims beyond one per slot.
        n_slots: Slots that were worked off.
        n_connections: Most that were open at a time.
        bits: What must not depend on who did the work.
    """

    seconds: float
    n_statements: int
    n_commits: int
    n_retries: dict[str, int]
    n_failed: int
    n_repeated: int
    n_slots: int
    n_connections: int
    bits: list[tuple[object, ...]]


def work_along(crowd: Crowd, url: str, port: int | None, pipe: Connection) -> None:
    """One worker: says that it is ready, waits for the start, works, and reports."""
    prepare()
    storage = (
        esgd.create_storage(url) if port is None else GrpcStorageProxy(host="127.0.0.1", port=port)
    )
    study = crowd.open(storage)
    trainer = esgd.ESGDTrainer(
        Parabola(),
        species=SPECIES,
        cohort_size=1,
        device="cpu",
        store=None if port is None else url,
    )
    retries = log_retries(Retries())
    pipe.send(None)
    pipe.recv()
    with counting() as counter:
        assert work(trainer, study, checkpoint_seconds=60.0, preemption=Preemption())
    pipe.send((counter.n_statements, counter.n_commits, dict(retries.counts)))


def run(crowd: Crowd, server: PrivateServer, *, through_proxy: bool) -> Run:
    """Let the workers work off a new population."""
    url = _new_database(server)
    with proxy(url) if through_proxy else nullcontext() as port:
        crowd.open(esgd.create_storage(url))
        pipes, workers = [], []
        for _ in range(crowd.n_workers):
            here, there = CONTEXT.Pipe()
            workers.append(start(work_along, crowd, url, port, there))
            pipes.append(here)
        for pipe in pipes:
            pipe.recv()
        with _watching(url) as most:
            started = time.monotonic()
            for pipe in pipes:
                pipe.send(None)
            reports = [pipe.recv() for pipe in pipes]
            seconds = time.monotonic() - started
        for worker in workers:
            end(worker)
        return _summed(crowd, url, seconds, reports, most[0])


def _summed(
    crowd: Crowd,
    url: str,
    seconds: float,
    reports: Sequence[tuple[int, int, dict[str, int]]],
    n_connections: int,
) -> Run:
    study = crowd.open(esgd.create_storage(url))
    population = find_population(study)
    assert population is not None
    mistakes = [*verify(population), *verify_trials(study, population)]
    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    # Where making a trial takes longer than a lease, another one is made, and this one fails.
    n_failed = states.pop(TrialState.FAIL, 0)
    if mistakes or states != {TrialState.COMPLETE: crowd.n_trials}:
        raise AssertionError(f"{states}; {mistakes[:5]}")
    slots = population.slots()
    retries: Counter[str] = Counter()
    for report in reports:
        retries.update(report[2])
    return Run(
        seconds=seconds,
        n_statements=sum(report[0] for report in reports),
        n_commits=sum(report[1] for report in reports),
        n_retries=dict(retries),
        n_failed=n_failed,
        n_repeated=sum(slot.attempt - 1 for slot in slots),
        n_slots=len(slots),
        n_connections=n_connections,
        bits=[
            (one.reference, one.parents, one.species, one.weights, one.fitness)
            for one in population.individuals()
        ],
    )


def measure(crowd: Crowd) -> Report:
    """One worker, many, and many through the proxy; all must end with the same bits.

    Raises:
        AssertionError: They do not, or what they wrote is not consistent.
    """
    alone = Crowd(1, crowd.population_size, crowd.n_generations)
    with _roomy_server(crowd) as server:
        runs = {
            "one worker": run(alone, server, through_proxy=False),
            f"{crowd.n_workers} workers": run(crowd, server, through_proxy=False),
            f"{crowd.n_workers} workers through the gRPC proxy": run(
                crowd, server, through_proxy=True
            ),
        }
    bits = [one.bits for one in runs.values()]
    if any(other != bits[0] for other in bits):
        raise AssertionError("The results depend on who did the work.")
    rows = []
    for name, one in runs.items():
        notes = (
            f"{one.n_statements / crowd.n_trials:.0f} statements and "
            f"{one.n_commits / crowd.n_trials:.1f} transactions a trial, "
            f"{one.n_connections} connections, {sum(one.n_retries.values())} retries, "
            f"{one.n_failed} failed trials"
        )
        rows.append(Row(name, crowd.n_trials / one.seconds, "trials/s", notes=notes))
        rows.append(Row(f"{name}: claimed twice", one.n_repeated, "", goal=0.0, at_least=False))
    return Report(
        "crowd",
        "Many workers through Optuna, training that costs nothing, PostgreSQL",
        f"python -m tests.benchmarks.crowd --workers {crowd.n_workers}",
        rows,
        raw={
            "crowd": asdict(crowd),
            "runs": {
                name: {key: value for key, value in asdict(one).items() if key != "bits"}
                for name, one in runs.items()
            },
        },
    )


@contextmanager
def _roomy_server(crowd: Crowd) -> Iterator[PrivateServer]:
    with private_server("postgresql") as server:
        engine = sa.create_engine(server.url, poolclass=sa.NullPool)
        n_connections = 4 * crowd.n_workers + 20
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"ALTER SYSTEM SET max_connections = {n_connections}")
        server.restart()
        yield server


def _new_database(server: PrivateServer) -> str:
    engine = sa.create_engine(server.url, poolclass=sa.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = f"crowd_{time.time_ns()}"
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    place = sa.make_url(server.url).set(database=name)
    return place.render_as_string(hide_password=False)


@contextmanager
def _watching(url: str) -> Iterator[list[int]]:
    """The most connections to a database while a block runs, this process's own not counted."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    most, done = [0], threading.Event()

    def watch() -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not done.wait(0.05):
                found = int(connection.exec_driver_sql(query).scalar_one()) - 1
                most[0] = max(most[0], found)

    thread = threading.Thread(target=watch)
    thread.start()
    yield most
    done.set()
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--population", type=int, default=Crowd.population_size)
    parser.add_argument("--generations", type=int, default=Crowd.n_generations)
    chosen = parser.parse_args()
    measure(Crowd(chosen.workers, chosen.population, chosen.generations)).save()


if __name__ == "__main__":
    main()
