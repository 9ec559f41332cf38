"""How busy workers are when training times differ: with the barrier, and without.

Processes share one database, and sleep where a network would be trained: so what is measured is
waiting for each other and for the database, on any number of cores. Training times are drawn
log-normal, one per individual, the same with the barrier and without.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.store.engines import close_databases, open_database
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.examples import example_snapshot
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Checkpoints
from tests.store.populations import make_population

_SCORING_SHARE = 0.02  # of the mean time of an SGD step, for each offspring
_WEIGHTS_BYTES = 20_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be done.

    Attributes:
        population_size: μ.
        n_generations: K.
        mean_seconds: Mean time of an SGD step.
        spread: Standard deviation of the logarithm of that time; 0 for all alike.
    """

    population_size: int = 16
    n_generations: int = 6
    mean_seconds: float = 1.0
    spread: float = 0.8

    def configure(self, *, asynchronous: bool) -> Configuration:
        """One individual per slot, with the barrier or without."""
        settings = Settings(
            population_size=self.population_size,
            n_generations=self.n_generations,
            asynchronous=asynchronous,
        )
        return settings.configure(seed=0, cohort_size=1, maximize=False)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run.

    Attributes:
        asynchronous: Without the barrier.
        n_workers: Processes.
        busy_seconds: Sum over the workers of the time they trained and scored.
        wall_seconds: From their common start to the end of the last one.
    """

    asynchronous: bool
    n_workers: int
    busy_seconds: float
    wall_seconds: float

    @property
    def utilisation(self) -> float:
        """Share of the workers' time in which they were busy, in [0, 1]."""
        return self.busy_seconds / (self.n_workers * self.wall_seconds)


class SleepingWorkshop:
    """Sleeps as long as an individual takes; its fitness is a random walk that backs off."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.busy_seconds = 0.0

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        return [self._train(one) for one in individuals]

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        self._sleep(_SCORING_SHARE * self._load.mean_seconds * len(offspring))
        rngs = [stream(0, *one.reference, "fitness") for one in offspring]
        return [
            Outcome(number=one.reference.number, fitness=float(rng.normal()))
            for one, rng in zip(offspring, rngs, strict=True)
        ]

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        raise AssertionError("nothing fails here")

    def _train(self, one: Individual) -> Outcome:
        rng = stream(0, *one.reference, "seconds")
        # The mean of exp(s z) over standard normal z is exp(s² / 2).
        factor = rng.lognormal(-(self._load.spread**2) / 2, self._load.spread)
        self._sleep(self._load.mean_seconds * factor)
        born = float(rng.normal()) if one.birth_fitness is None else one.birth_fitness
        return Outcome(
            number=one.reference.number,
            fitness=min(born, float(rng.normal())),
            birth_fitness=born if one.birth_fitness is None else None,
            weights=example_snapshot(one.reference, _WEIGHTS_BYTES),
        )

    def _sleep(self, seconds: float) -> None:
        started = time.perf_counter()
        time.sleep(seconds)
        self.busy_seconds += time.perf_counter() - started


def measure(load: Load, *, n_workers: int, asynchronous: bool, url: str) -> Measured:
    """Run a load on an empty population; afterwards everything it says is verified."""
    configuration = load.configure(asynchronous=asynchronous)
    population = make_population(url, configuration.to_json())
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(n_workers + 1), spawn.SimpleQueue()
    place = (url, population.uuid, load, asynchronous)
    workers = [
        spawn.Process(target=_work, args=(*place, barrier, answers)) for _ in range(n_workers)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    busy_seconds = sum(_answer(answers, workers) for _ in workers)
    wall_seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    lies = verify(population, configuration)
    if lies:
        raise AssertionError("\n".join(lies))
    return Measured(
        asynchronous=asynchronous,
        n_workers=n_workers,
        busy_seconds=busy_seconds,
        wall_seconds=wall_seconds,
    )


def _answer(answers: Any, workers: Sequence[BaseProcess]) -> float:
    """The next worker's answer; an error instead if one has died without."""
    while answers.empty():
        if any(worker.exitcode for worker in workers):
            raise RuntimeError("A worker died; see what it wrote to stderr.")
        time.sleep(0.01)
    return float(answers.get())


def _work(
    url: str, uuid: str, load: Load, asynchronous: bool, barrier: Barrier, answers: Any
) -> None:
    configuration = load.configure(asynchronous=asynchronous)
    population = SqlPopulation(open_database(url), uuid, configuration.to_json())
    workshop = SleepingWorkshop(load)
    loop = WorkLoop(population, configuration, explore_nothing, workshop)
    population.facts()
    barrier.wait()
    while loop.act(loop.decide()):
        pass
    answers.put(workshop.busy_seconds)
    close_databases()


def to_markdown(measured: Sequence[Measured]) -> str:
    """A table, one line per number of workers."""
    titles = "workers", "busy, with barrier", "asynchronous", "time, with barrier", "asynchronous"
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for n_workers in dict.fromkeys(one.n_workers for one in measured):
        runs = [one for one in measured if one.n_workers == n_workers]
        runs.sort(key=lambda one: one.asynchronous)
        busy = " | ".join(f"{one.utilisation:.0%}" for one in runs)
        wall = " | ".join(f"{one.wall_seconds:.1f} s" for one in runs)
        lines.append(f"| {n_workers} | {busy} | {wall} |")
    return "\n".join(lines)


def to_json(load: Load, measured: Sequence[Measured]) -> str:
    """Everything that was measured."""
    runs = [{**asdict(one), "utilisation": one.utilisation} for one in measured]
    return json.dumps({"load": asdict(load), "runs": runs}, indent=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all numbers of workers, one after the other."""
    default = Load()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--population", type=int, default=default.population_size)
    parser.add_argument("--generations", type=int, default=default.n_generations)
    parser.add_argument("--seconds", type=float, default=default.mean_seconds)
    parser.add_argument("--spread", type=float, default=default.spread)
    parser.add_argument("--url", help="an empty database (default: a SQLite file of its own)")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    parsed = parser.parse_args(arguments)
    load = Load(
        population_size=parsed.population,
        n_generations=parsed.generations,
        mean_seconds=parsed.seconds,
        spread=parsed.spread,
    )
    with tempfile.TemporaryDirectory() as folder:
        url = parsed.url or f"sqlite:///{Path(folder) / 'utilisation.db'}"
        measured = [
            measure(load, n_workers=n_workers, asynchronous=asynchronous, url=url)
            for n_workers in parsed.workers
            for asynchronous in (False, True)
        ]
        close_databases()
    print(to_markdown(measured))
    if parsed.json is not None:
        parsed.json.write_text(to_json(load, measured) + "\n")


if __name__ == "__main__":
    main()
