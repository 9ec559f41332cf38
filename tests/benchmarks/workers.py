"""How many workers one database bears, when training costs nothing.

    python -m tests.benchmarks.workers postgresql://postgres@127.0.0.1/empty --workers 64

Prints a Markdown table, and writes all numbers to a file with ``--json``. The database must be
there; a population is added to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import sqlalchemy as sa

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.store.engines import open_database
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.examples import example_configuration
from optuna_esgd.testing.runs import outcome_of
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Checkpoints
from tests.faults.failpoints import counting
from tests.faults.workers import CONTEXT, start
from tests.store.populations import make_population

_WEIGHT_BYTES = 1000


@dataclass(frozen=True)
class Load:
    """What a run with many workers came to.

    Attributes:
        database: Its kind.
        n_workers: Processes.
        n_slots: Slots that were worked off.
        seconds: From the first worker's start of work to the last one's end.
        n_statements: SQL statements of all workers.
        n_commits: Transactions of all workers.
        n_retries: Transactions that were run again, by what was in their way.
        n_repeated: Claims beyond one per slot.
        n_connections: Most connections that were open at a time, this process's own not counted;
            None where the database does not say.
        mistakes: What ``verify`` found.
    """

    database: str
    n_workers: int
    n_slots: int
    seconds: float
    n_statements: int
    n_commits: int
    n_retries: dict[str, int]
    n_repeated: int
    n_connections: int | None
    mistakes: list[str]

    def row(self) -> str:
        """A line of a Markdown table."""
        cells = (
            self.database,
            self.n_workers,
            self.n_slots,
            f"{self.n_slots / self.seconds:.0f}",
            f"{self.n_statements / self.n_slots:.1f}",
            f"{self.n_commits / self.n_slots:.1f}",
            sum(self.n_retries.values()),
            self.n_repeated,
            "" if self.n_connections is None else self.n_connections,
        )
        return f"| {' | '.join(map(str, cells))} |"


HEADER = (
    "| database | workers | slots | slots/s | statements/slot | transactions/slot | retries "
    "| claimed twice | connections |\n|---|---|---|---|---|---|---|---|---|"
)


class InstantWorkshop:
    """Trains in no time."""

    def __init__(self, population: Population, configuration: Configuration) -> None:
        self._population = population
        self._configuration = configuration

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        return self._outcomes(individuals)

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        return self._outcomes(offspring)

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        raise AssertionError("Nothing fails here.")

    def _outcomes(self, individuals: Sequence[Individual]) -> list[Outcome]:
        return [
            outcome_of(self._population, self._configuration, one, _WEIGHT_BYTES)
            for one in individuals
        ]


class Retries(logging.Handler):
    """Counts transactions that were run again."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.counts[str(record.args[1])] += 1


def log_retries(retries: Retries) -> Retries:
    """Let it count those of this process, from now on."""
    logger = logging.getLogger("optuna_esgd.store.transactions")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(retries)
    return retries


def work(url: str, uuid: str, configuration: Configuration, pipe: Connection) -> None:
    """One worker: says that it is ready, waits for the start, works, and reports."""
    population = SqlPopulation(open_database(url), uuid, configuration.to_json())
    retries = log_retries(Retries())
    loop = WorkLoop(
        population, configuration, explore_nothing, InstantWorkshop(population, configuration)
    )
    pipe.send(None)
    pipe.recv()
    with counting() as counter:
        while loop.act(loop.decide()):
            pass
    pipe.send((counter.n_statements, counter.n_commits, dict(retries.counts)))


def measure(url: str, *, n_workers: int, population_size: int, n_generations: int) -> Load:
    """Let many workers work off a population in cohorts of one."""
    settings = {"population_size": population_size, "n_offspring": population_size}
    example = example_configuration(**settings, n_generations=n_generations)
    configuration = Configuration(**{**asdict(example), "cohort_size": 1})
    population = make_population(url, configuration.to_json())
    pipes, workers = [], []
    for _ in range(n_workers):
        here, there = CONTEXT.Pipe()
        workers.append(start(work, url, population.uuid, configuration, there))
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    with _watching(population) as most:
        started = time.monotonic()
        for pipe in pipes:
            pipe.send(None)
        reports = [pipe.recv() for pipe in pipes]
        seconds = time.monotonic() - started
    for worker in workers:
        worker.join()
    return _load(population, seconds, reports, most.n_connections)


def _load(
    population: SqlPopulation,
    seconds: float,
    reports: list[tuple[int, int, dict[str, int]]],
    n_connections: int | None,
) -> Load:
    slots = population.slots()
    retries: Counter[str] = Counter()
    for report in reports:
        retries.update(report[2])
    return Load(
        database=population.database.kind,
        n_workers=len(reports),
        n_slots=len(slots),
        seconds=seconds,
        n_statements=sum(report[0] for report in reports),
        n_commits=sum(report[1] for report in reports),
        n_retries=dict(retries),
        n_repeated=sum(slot.attempt - 1 for slot in slots),
        n_connections=n_connections,
        mistakes=verify(population),
    )


_QUERIES = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = database()",
}


class _watching:  # noqa: N801 - reads as the block it makes
    """Counts the connections to a database while a block runs."""

    def __init__(self, population: SqlPopulation) -> None:
        self._query = _QUERIES.get(population.database.kind)
        self._engine = sa.create_engine(population.database.url, poolclass=sa.NullPool)
        self._own = population.database
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.n_connections: int | None = None

    def __enter__(self) -> _watching:
        self._own.close()
        if self._query is not None:
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        if self._query is not None:
            self._thread.join()

    def _watch(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not self._done.wait(0.05):
                found = int(connection.exec_driver_sql(str(self._query)).scalar_one()) - 1
                self.n_connections = max(found, self.n_connections or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Load a database with workers.")
    parser.add_argument("urls", nargs="+", help="sqlite:///, postgresql://, mysql://")
    parser.add_argument("--workers", type=int, nargs="+", default=[64])
    parser.add_argument("--population", type=int, default=128)
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loads = []
    print(HEADER)
    for url in arguments.urls:
        for n_workers in arguments.workers:
            load = measure(
                url,
                n_workers=n_workers,
                population_size=arguments.population,
                n_generations=arguments.generations,
            )
            print(load.row(), flush=True)
            loads.append(asdict(load))
    if arguments.json:
        arguments.json.write_text(json.dumps(loads, indent=2))


if __name__ == "__main__":
    main()
