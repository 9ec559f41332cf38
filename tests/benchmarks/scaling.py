"""How busy 1 to 8 workers are on one database when an SGD step takes 50 ms, and claims per second.

    python -m tests.benchmarks.scaling --url postgresql://postgres@127.0.0.1/empty

Training sleeps: so what is measured is what the database and we cost, not the processor; workers
share the processor for that, and what is left of the time is bookkeeping. The database must be
there; populations are added to it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.planning import plan_founders
from optuna_esgd.store.engines import close_databases, open_database
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.verification import verify
from optuna_esgd.trainer.loop import WorkLoop
from tests.benchmarks.harness import Report, Row
from tests.benchmarks.utilisation import Load, SleepingWorkshop
from tests.faults.failpoints import counting
from tests.faults.workers import CONTEXT, start
from tests.store.populations import make_population

GOAL_UTILISATION, GOAL_CLAIMS = 0.95, 400.0
SECONDS = 0.05


def _configure(
    population_size: int, n_generations: int, *, n_offspring: int, asynchronous: bool
) -> Configuration:
    settings = Settings(
        population_size=population_size,
        n_generations=n_generations,
        n_offspring=n_offspring,
        selection="elitist" if n_offspring else "truncation",
        asynchronous=asynchronous,
    )
    return settings.configure(seed=0, cohort_size=1, maximize=False)


def _together(
    url: str,
    configuration: Configuration,
    n_workers: int,
    work: Callable[..., object],
    *arguments: Any,
) -> tuple[SqlPopulation, list[Any], float]:
    """Let workers begin at the same moment; the population, their answers, and the seconds."""
    population = make_population(url, configuration.to_json())
    population.commit_plan(plan_founders(configuration, explore_nothing))
    pipes, workers = [], []
    for _ in range(n_workers):
        here, there = CONTEXT.Pipe()
        workers.append(start(work, url, population.uuid, configuration, there, *arguments))
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    started = time.perf_counter()
    for pipe in pipes:
        pipe.send(None)
    answers = [pipe.recv() for pipe in pipes]
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return population, answers, seconds


def _train(
    url: str, uuid: str, configuration: Configuration, pipe: Connection, seconds: float
) -> None:
    """A worker: answers with its busy seconds, and statements."""
    population = SqlPopulation(open_database(url), uuid, configuration.to_json())
    workshop = SleepingWorkshop(Load(mean_seconds=seconds, spread=0.0))
    loop = WorkLoop(population, configuration, explore_nothing, workshop)
    population.facts()
    pipe.send(None)
    pipe.recv()
    with counting() as counter, loop.working_ahead():
        while loop.act(loop.decide()):
            pass
    pipe.send((workshop.busy_seconds, counter.n_statements, time.process_time()))


def _claim(url: str, uuid: str, configuration: Configuration, pipe: Connection) -> None:
    """A worker that only claims, as the work loop does, until nothing is left."""
    population = SqlPopulation(open_database(url), uuid, configuration.to_json())
    keys = [slot.key for slot in population.facts().slots]
    pipe.send(None)
    pipe.recv()
    claimed = []
    while keys:
        claim = population.claim_one_of(keys, worker="one of eight", lease_seconds=600)
        if claim is None:
            break
        claimed.append(claim.slot.key)
        keys = [key for key in keys if key > claim.slot.key]
    pipe.send(claimed)


def claims_per_second(url: str, *, n_workers: int, n_slots: int) -> float:
    """How many slots some processes claim that all want the same ones."""
    configuration = _configure(n_slots, 1, n_offspring=0, asynchronous=False)
    _, answers, seconds = _together(url, configuration, n_workers, _claim)
    claimed = [key for answer in answers for key in answer]
    if len(claimed) != n_slots or len(set(claimed)) != n_slots:
        raise AssertionError(f"{n_slots} slots, but {len(claimed)} claims")
    return n_slots / seconds


def measure(
    url: str,
    *,
    n_workers: Sequence[int] = (1, 2, 4, 8),
    population_size: int = 64,
    n_generations: int = 4,
    n_slots: int = 800,
    seconds: float = SECONDS,
) -> Report:
    """Utilisation by number of workers, and claims per second of the largest number.

    Args:
        url: Of a database that is there.
        n_workers: Processes.
        population_size: One individual per slot.
        n_generations: Of each run.
        n_slots: To be claimed.
        seconds: Sleep of one SGD step.
    """
    rows: list[Row] = []
    raw: list[dict[str, Any]] = []
    modes = {"training only": (0, False), "with offspring": (4, False), "asynchronous": (4, True)}
    for name, (n_each, asynchronous) in modes.items():
        for n in n_workers:
            configuration = _configure(
                population_size,
                n_generations,
                n_offspring=n_each * population_size,
                asynchronous=asynchronous,
            )
            population, answers, wall = _together(url, configuration, n, _train, seconds)
            lies = verify(population, configuration)
            if lies:
                raise AssertionError("\n".join(lies))
            busy, n_statements = (sum(answer[at] for answer in answers) for at in (0, 1))
            n_done = len(population.slots())
            utilisation = busy / (n * wall)
            goal = GOAL_UTILISATION if n == max(n_workers) else None
            note = f"{n_statements / n_done:.1f} statements per slot"
            rows.append(
                Row(f"{name}: busy share of {n} workers", utilisation, "", goal, notes=note)
            )
            raw.append({"mode": name, "n_workers": n, "wall": wall, "answers": answers})
    rate = claims_per_second(url, n_workers=max(n_workers), n_slots=n_slots)
    rows.append(Row(f"claims, {max(n_workers)} contending workers", rate, "claims/s", GOAL_CLAIMS))
    return Report(
        "scaling",
        f"Workers on one {open_database(url).kind} database, SGD steps of {seconds * 1e3:g} ms",
        "python -m tests.benchmarks.scaling",
        rows,
        {"runs": raw},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="an empty database (default: a SQLite file of its own)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--generations", type=int, default=4)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(
            parsed.url or f"sqlite:///{Path(folder) / 'scaling.db'}",
            n_workers=parsed.workers,
            population_size=parsed.population,
            n_generations=parsed.generations,
        ).save()
        close_databases()


if __name__ == "__main__":
    main()
