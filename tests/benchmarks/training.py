"""How fast a population of small networks trains, against a plain loop over models.

B1: networks 64-64-10, batches of 32, 64 networks of the species SGD and Adam. What is timed is an
epoch of a cohort as a worker trains it: batches in each network's own order, gradients, updates.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict

from tests.benchmarks.cohorts import Load, Ours, Plain, crew
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
    started = time.perf_counter()
    compiled = Ours(load, "compiled")
    compiled.train_epoch()
    opening_seconds = time.perf_counter() - started
    batched, rows = Ours(load, "batched"), Ours(load, "rows")
    plain = Plain(load, compiled.individuals)
    with crew(load, "compiled") as pair:
        timings = take_turns(
            {
                "plain": plain.train_epoch,
                "rows": rows.train_epoch,
                "batched": batched.train_epoch,
                "compiled": compiled.train_epoch,
                "two processes": pair.train_epoch,
            },
            n_rounds=n_rounds,
        )
    return _report(load, timings, opening_seconds)


def _report(load: Load, timings: dict[str, Timing], opening_seconds: float) -> Report:
    seconds = {name: timing.median for name, timing in timings.items()}
    saved = seconds["batched"] - seconds["compiled"]

    def ratio(name: str, goal: float | None = None, notes: str = "") -> Row:
        speed = f"{load.n_samples / seconds[name] / 1e3:.0f} k samples/s"
        return Row(
            f"{name} : plain loop",
            seconds["plain"] / seconds[name],
            goal=goal,
            notes=f"{speed}{notes}",
        )

    return Report(
        name="training",
        title=f"Training {load.population_size} networks {load.network}",
        command="python -m tests.benchmarks.training",
        rows=[
            Row("plain loop", load.n_samples / seconds["plain"] / 1e3, "k samples/s"),
            ratio("rows"),
            ratio("batched"),
            ratio("compiled", ONE_PROCESS, ", one process"),
            ratio("two processes", TWO_PROCESSES, ", compiled, half of the networks each"),
            Row("opening a study and compiling its step", opening_seconds, "s"),
            Row(
                "epochs until compiling has paid",
                opening_seconds / saved if saved > 0 else float("inf"),
                "epochs",
                notes="against batched",
            ),
        ],
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
