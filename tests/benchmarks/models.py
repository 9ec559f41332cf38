"""How fast populations of larger networks train, against a plain loop over models.

B2: a small CNN on 28×28, GRU and LSTM character models, ResNet-20. One such network keeps a core
busy, so there is little to win by training many at once: the backend that a study chooses by
itself must never be slower than the loop, and two processes must be twice as fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from tests.benchmarks.cohorts import Load, Ours, Plain, crew
from tests.benchmarks.harness import Report, Row, take_turns

ONE_PROCESS, TWO_PROCESSES = 1.0, 2.0

LOADS: Mapping[str, Load] = {
    one.network: one
    for one in (
        Load(network="CNN 28x28", population_size=16, n_examples=256, batch_size=64),
        Load(network="GRU 128", population_size=16, n_examples=64, batch_size=32),
        Load(network="LSTM 128", population_size=16, n_examples=64, batch_size=32),
        Load(network="ResNet-20", population_size=4, n_examples=64, batch_size=32),
    )
}


def measure(loads: Sequence[Load], *, n_rounds: int = 5) -> Report:
    """Time the plain loop and the chosen backend, in one process and in two.

    Args:
        loads: What is trained, one after the other.
        n_rounds: Epochs that are timed, of each.

    Returns:
        Ratios to the plain loop in one process.
    """
    rows: list[Row] = []
    raw = {}
    for load in loads:
        ours = Ours(load)
        plain = Plain(load, ours.individuals)
        with crew(load, ours.backend) as pair:
            timings = take_turns(
                {
                    "plain": plain.train_epoch,
                    "chosen": ours.train_epoch,
                    "two processes": pair.train_epoch,
                },
                n_rounds=n_rounds,
            )
        seconds = {name: timing.median for name, timing in timings.items()}
        speeds = {name: f"{load.n_samples / one:.0f} samples/s" for name, one in seconds.items()}
        rows += [
            Row(
                f"{load.network} : plain loop",
                seconds["plain"] / seconds["chosen"],
                goal=ONE_PROCESS,
                notes=f"{ours.backend}, {speeds['chosen']} against {speeds['plain']}",
            ),
            Row(
                f"{load.network}, two processes : plain loop",
                seconds["plain"] / seconds["two processes"],
                goal=TWO_PROCESSES,
                notes=speeds["two processes"],
            ),
        ]
        raw[load.network] = {
            "load": asdict(load),
            "backend": ours.backend,
            "timings": {name: asdict(timing) for name, timing in timings.items()},
        }
    return Report(
        name="models",
        title="Training populations of larger networks",
        command="python -m tests.benchmarks.models",
        rows=rows,
        raw=raw,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parsed = parser.parse_args(arguments)
    loads = [
        replace(LOADS[name], device=parsed.device, precision=parsed.precision)
        for name in parsed.networks
    ]
    measure(loads, n_rounds=parsed.rounds).save()


if __name__ == "__main__":
    main()
