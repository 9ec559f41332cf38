"""How fast a population of small networks trains, against a plain loop over models.

B1: networks 64-64-10, batches of 32, 64 networks of the species SGD and Adam. What is timed is an
epoch of a cohort as a worker trains it: batches in each network's own order, gradients, updates.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from tests.benchmarks.cohorts import Load, Ours, Plain, crew, empty_cache
from tests.benchmarks.harness import Report, Row, Timing, take_turns

ONE_PROCESS, TWO_PROCESSES = 20.0, 35.0


def measure(load: Load, *, n_rounds: int = 7) -> Report:
    """Time all backends and the plain loop in turns.

    Args:
        load: What is trained.
        n_rounds: Epochs that are timed, of each.

    Returns:
        Ratios to the plain loop in one process.
    """
    opening_seconds: dict[str, float] = {}
    ours: dict[str, Ours] = {}
    with contextlib.ExitStack() as stack:
        # Kernels are written for processors; and compiled anew, for that is measured too.
        stack.enter_context(empty_cache())
        compilers = ["native", "compiled"] if load.device == "cpu" else ["compiled"]
        for backend in [*compilers, "batched", "rows"]:
            started = time.perf_counter()
            ours[backend] = Ours(load, backend)
            ours[backend].train_epoch()
            opening_seconds[backend] = time.perf_counter() - started
        plain = Plain(load, ours["batched"].individuals)
        contenders: dict[str, Callable[[], object]] = {"plain": plain.train_epoch}
        contenders |= {name: one.train_epoch for name, one in reversed(ours.items())}
        for backend in compilers:
            pair = stack.enter_context(crew(load, backend))
            contenders[f"two processes, {backend}"] = pair.train_epoch
        timings = take_turns(contenders, n_rounds=n_rounds)
    return _report(load, timings, {name: opening_seconds[name] for name in compilers})


def _report(load: Load, timings: dict[str, Timing], opening_seconds: dict[str, float]) -> Report:
    """The goals are those of the first backend that is compiled: the fastest one there is."""
    seconds = {name: timing.median for name, timing in timings.items()}

    def ratio(name: str, notes: str = "", goal: float | None = None) -> Row:
        speed = f"{load.n_samples / seconds[name] / 1e3:.0f} k samples/s"
        return Row(
            f"{name} : plain loop",
            seconds["plain"] / seconds[name],
            goal=goal,
            notes=f"{speed}{notes}",
        )

    rows = [
        Row("plain loop", load.n_samples / seconds["plain"] / 1e3, "k samples/s"),
        ratio("rows"),
        ratio("batched"),
    ]
    for number, (backend, opening) in enumerate(opening_seconds.items()):
        goals = (None, None) if number else (ONE_PROCESS, TWO_PROCESSES)
        saved = seconds["batched"] - seconds[backend]
        rows += [
            ratio(backend, ", one process", goals[0]),
            ratio(f"two processes, {backend}", ", half of the networks each", goals[1]),
            Row(f"opening a study and compiling, {backend}", opening, "s"),
            Row(
                f"epochs until compiling has paid, {backend}",
                opening / saved if saved > 0 else float("inf"),
                "epochs",
                notes="against batched",
            ),
        ]
    return Report(
        name="training",
        title=f"Training {load.population_size} networks {load.network}",
        command="python -m tests.benchmarks.training",
        rows=rows,
        raw={"load": asdict(load), "timings": {k: asdict(v) for k, v in timings.items()}},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--examples", type=int, default=1437)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parsed = parser.parse_args(arguments)
    load = Load(
        network="MLP 64-64-10",
        population_size=parsed.population,
        n_examples=parsed.examples,
        batch_size=32,
        device=parsed.device,
        precision=parsed.precision,
    )
    measure(load, n_rounds=parsed.rounds).save()


if __name__ == "__main__":
    main()
