"""Whole runs against what people would use instead: same network, same gradient steps.

    python -m tests.benchmarks.end_to_end --ray /path/to/python

Sixteen networks of 4,810 weights learn handwritten digits for twenty epochs. Everybody else trains
without an evolution step; ours also scores 64 offspring after every epoch. Ray Tune needs an
environment of its own: ``python3 -m venv ENV && ENV/bin/pip install 'ray[tune]' torch
scikit-learn``; without ``--ray`` it is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.store.engines import close_databases
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.trainer.preemption import Preemption
from optuna_esgd.trainer.workshop import TaskWorkshop
from optuna_esgd.worker.work import work
from tests.benchmarks.digits import BATCH_SIZE, build_model, read_digits, train_epoch, validate
from tests.benchmarks.harness import Report, Row, Timing, take_turns

GOAL_RAY, GOAL_OPTUNA, GOAL_COLD, GOAL_BOOKKEEPING = 20.0, 6.0, 1.0, 1.15


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    n_individuals: int = 16
    n_epochs: int = 20


class Spent:
    """Seconds that our runs spend on training itself: without reading weights for it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._n_open = 0

    def adding(self, method: Callable[..., Any], sign: float) -> Callable[..., Any]:
        """The method, its time added to the seconds, or taken off."""

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            self._n_open += sign > 0
            try:
                return method(*arguments, **options)
            finally:
                if self._n_open:  # reading counts where training waits for it
                    self.seconds += sign * (time.perf_counter() - started)
                self._n_open -= sign > 0

        return timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count while the block runs."""
        watched = [(TaskWorkshop, "train", 1.0), (TaskWorkshop, "evaluate", 1.0)]
        watched += [(SqlPopulation, "read_weights", -1.0)]
        watched += [(SqlPopulation, "read_optimizer_state", -1.0)]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]
        for owner, name, sign in watched:
            setattr(owner, name, self.adding(getattr(owner, name), sign))
        try:
            yield
        finally:
            for owner, name, method in before:
                setattr(owner, name, method)


def prepare() -> None:
    """What every contender's process does first."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def ours(size: Size, *, by_worker: bool) -> None:
    """ESGD on SQLite, one epoch a generation."""
    with tempfile.TemporaryDirectory() as folder:
        train, validation = read_digits()
        sampler = esgd.ESGDSampler(
            size.n_individuals, seed=0, n_epochs=1, n_generations=size.n_epochs
        )
        study = optuna.create_study(
            storage=esgd.create_storage(f"sqlite:///{folder}/esgd.db"), sampler=sampler
        )
        task = esgd.SupervisedTask(
            model=build_model,
            loss=nn.functional.cross_entropy,
            train=train,
            validation=validation,
            batch_size=BATCH_SIZE,
        )
        trainer = esgd.ESGDTrainer(task, species=["SGD"], device="cpu")
        if by_worker:
            work(trainer, study, checkpoint_seconds=math.inf, preemption=Preemption())
        else:
            study.optimize(trainer, n_trials=size.n_individuals * size.n_epochs)
        close_databases()


def plain(size: Size) -> None:
    """A loop over networks, and nothing kept."""
    train, validation = read_digits()
    for _ in range(size.n_individuals):
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(size.n_epochs):
            train_epoch(model, optimizer, train)
            validate(model, validation)


def optuna_with_files(size: Size) -> None:
    """Optuna's random search on SQLite, with a checkpoint file after every epoch."""
    train, validation = read_digits()

    def objective(trial: optuna.Trial) -> float:
        model = build_model()
        rate = trial.suggest_float("lr", 1e-3, 0.3, log=True)
        momentum = trial.suggest_float("momentum", 0, 0.99)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
        loss = math.inf
        for epoch in range(size.n_epochs):
            train_epoch(model, optimizer, train)
            loss = validate(model, validation)
            trial.report(loss, epoch)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, f"{folder}/{trial.number}.pt")
        return loss

    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(
            storage=f"sqlite:///{folder}/study.db", sampler=optuna.samplers.RandomSampler(seed=0)
        )
        study.optimize(objective, n_trials=size.n_individuals)


CONTENDERS: dict[str, Callable[[Size], None]] = {
    "ours, by a worker": lambda size: ours(size, by_worker=True),
    "ours, study.optimize": lambda size: ours(size, by_worker=False),
    "plain loop": plain,
    "Optuna with checkpoint files": optuna_with_files,
}


def cold(name: str, size: Size) -> float:
    """Seconds of a process that starts, runs one contender, and ends."""
    command = [sys.executable, "-m", "tests.benchmarks.end_to_end", "--only", name]
    sizes = ["--individuals", str(size.n_individuals), "--epochs", str(size.n_epochs)]
    started = time.perf_counter()
    subprocess.run([*command, *sizes], check=True)
    return time.perf_counter() - started


def ray_seconds(python: Path, size: Size, n_repetitions: int) -> dict[str, Any]:
    """What Ray Tune takes, in its own environment; its first run does not count."""
    script = Path(__file__).with_name("ray_pbt.py")
    sizes = ["--individuals", str(size.n_individuals), "--epochs", str(size.n_epochs)]
    command = [str(python), str(script), *sizes, "--repetitions", str(n_repetitions)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def measure(
    size: Size | None = None,
    *,
    n_rounds: int = 5,
    n_cold_rounds: int = 3,
    ray: Path | None = None,
) -> Report:
    """Wall clock of whole runs, as ratios of medians.

    Args:
        size: How much is trained.
        n_rounds: After one that warms up.
        n_cold_rounds: Processes started for each contender; 0 for none.
        ray: The interpreter of an environment with Ray Tune; None to leave it out.
    """
    prepare()
    chosen = Size() if size is None else size
    spent, shares = Spent(), []

    def watched() -> None:
        spent.seconds, started = 0.0, time.perf_counter()
        with spent.watching():
            CONTENDERS["ours, by a worker"](chosen)
        shares.append((time.perf_counter() - started) / spent.seconds)

    contenders: dict[str, Callable[[], object]] = {
        name: (lambda run=run: run(chosen)) for name, run in CONTENDERS.items()
    }
    warm = take_turns({**contenders, "ours, by a worker": watched}, n_rounds=n_rounds)
    rows = _warm_rows(warm, statistics.median(shares[-n_rounds:]))
    raw: dict[str, Any] = {name: timing.wall for name, timing in warm.items()}
    if n_cold_rounds:
        names = ("ours, by a worker", "plain loop")
        started = {name: (lambda name=name: cold(name, chosen)) for name in names}
        timed = take_turns(started, n_rounds=n_cold_rounds, n_warm_up=0)
        ratio = timed[names[1]].median / timed[names[0]].median
        rows.append(Row("plain loop / ours, whole processes", ratio, "x", GOAL_COLD))
        raw |= {f"cold, {name}": timing.wall for name, timing in timed.items()}
    if ray is not None and ray.exists():
        answer = ray_seconds(ray, chosen, n_rounds)
        ratio = statistics.median(answer["seconds"]) / warm["ours, by a worker"].median
        note = f"Ray {answer['ray']}, warm, after ours"
        rows.append(Row("Ray Tune PBT / ours", ratio, "x", GOAL_RAY, notes=note))
        raw["ray"] = answer
    else:
        print("Ray Tune is left out: give --ray the interpreter of its environment.")
    return Report(
        "end_to_end",
        f"{chosen.n_individuals} networks of 4,810 weights, {chosen.n_epochs} epochs each",
        "python -m tests.benchmarks.end_to_end",
        rows,
        raw,
    )


def _warm_rows(warm: dict[str, Timing], bookkeeping: float) -> list[Row]:
    own = warm["ours, by a worker"].median
    optimize = warm["ours, study.optimize"].median
    return [
        Row(
            "Optuna with checkpoint files / ours",
            warm["Optuna with checkpoint files"].median / own,
            "x",
            GOAL_OPTUNA,
        ),
        Row("plain loop / ours", warm["plain loop"].median / own, "x", 1.0),
        Row("plain loop / ours by study.optimize", warm["plain loop"].median / optimize),
        Row("ours / its training alone", bookkeeping, "x", GOAL_BOOKKEEPING, at_least=False),
        Row("ours", own, "s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ray", type=Path, help="interpreter of an environment with Ray Tune")
    parser.add_argument("--only", choices=CONTENDERS, help="run one contender and end")
    parser.add_argument("--individuals", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args()
    size = Size(parsed.individuals, parsed.epochs)
    if parsed.only:
        prepare()
        CONTENDERS[parsed.only](size)
        return
    measure(size, n_rounds=parsed.rounds, ray=parsed.ray).save()


if __name__ == "__main__":
    main()
