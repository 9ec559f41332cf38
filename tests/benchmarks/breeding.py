"""The evolution step: λ = 4μ offspring of ρ = 2 parents, averaged and mutated.

    python -m tests.benchmarks.breeding

Measured is ``breed`` into memory that is there already. For 25 M weights μ is 8: 8 parents and 32
offspring are 4 GB, and the reference has 3.2 GB of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optuna_esgd.draws import NormalRows
from optuna_esgd.genome.breeding import breed
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from tests.benchmarks.harness import Report, Row, take_turns

_SIGMA = 0.1
# Numbers of weights, each with its μ.
SIZES = ((270_000, 16), (25_000_000, 8))


def measure(sizes: Sequence[tuple[int, int]] = SIZES, *, n_rounds: int = 7) -> Report:
    """Measure breeding.

    Args:
        sizes: Numbers of weights, and μ for each.
        n_rounds: How often everything is measured.
    """
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    for n_weights, n_parents in sizes:
        timings, n_scratch_bytes = _measure(n_weights, n_parents, n_rounds)
        raw[f"{n_weights} weights"] = {
            "mu": n_parents,
            "n_scratch_bytes": n_scratch_bytes,
            **{name: asdict(timing) for name, timing in timings.items()},
        }
        size = f"{n_weights / 1e6:g} M weights, μ = {n_parents}, λ = {4 * n_parents}"
        n_bred = 4 * n_parents * n_weights
        median = {name: timing.median for name, timing in timings.items()}
        bandwidth = 8 * n_bred / median["copy"]
        bred_bandwidth = 12 * n_bred / median["averaged"]
        rows += [
            Row(
                f"{size}: averaged, of the bandwidth of a copy",
                100 * bred_bandwidth / bandwidth,
                "%",
                goal=60,
                notes=f"2 reads and 1 write: {bred_bandwidth / 1e9:.1f} GB/s, "
                f"a copy {bandwidth / 1e9:.1f}",
            ),
            Row(
                f"{size}: averaged and mutated, against normal_ and addmm",
                median["normal_ and addmm"] / median["averaged and mutated"],
                goal=1.5,
                notes=f"{n_bred / median['averaged and mutated'] / 1e6:.0f} M weights/s",
            ),
            Row(
                f"{size}: noise alone, against normal_",
                median["normal_"] / median["noise"],
                notes=f"{n_weights / median['noise'] / 1e6:.0f} M weights/s",
            ),
            Row(
                f"{size}: memory beside parents and offspring",
                n_scratch_bytes / 1e6,
                "MB",
                goal=8,
                at_least=False,
                notes=f"the offspring have {4 * n_bred / 1e6:.0f} MB",
            ),
        ]
    return Report(
        name="breeding",
        title="Breeding offspring (λ = 4μ, ρ = 2)",
        command="python -m tests.benchmarks.breeding",
        rows=rows,
        raw=raw,
    )


def _measure(n_weights: int, n_parents: int, n_rounds: int) -> tuple[dict[str, Any], int]:
    n_offspring = 4 * n_parents
    layout = Layout.of(nn.Linear(n_weights, 1, bias=False))
    pool, offspring = Matrix.zeros(layout, n_parents), Matrix.zeros(layout, n_offspring)
    parents = pool.blocks[torch.float32].normal_()
    families = [[i % n_parents, (3 * i + 1) % n_parents] for i in range(n_offspring)]
    mixture = torch.zeros(n_offspring, n_parents)
    for row, family in enumerate(families):
        for parent in family:
            mixture[row, parent] += 0.5
    reference = torch.ones(n_offspring, n_weights)
    bred = offspring.blocks[torch.float32]
    noise, rows = torch.ones(n_weights), NormalRows()

    def breed_all(sigma: float) -> None:
        breed(
            pool,
            families,
            scales=[sigma] * n_offspring,
            seeds=range(n_offspring),
            out=offspring,
        )

    timings = take_turns(
        {
            "copy": lambda: bred.copy_(reference),
            "averaged": lambda: breed_all(0.0),
            "averaged and mutated": lambda: breed_all(_SIGMA),
            "normal_ and addmm": lambda: torch.addmm(
                reference.normal_(), mixture, parents, beta=_SIGMA, out=reference
            ),
            "normal_": noise.normal_,
            "noise": lambda: rows.fill(noise, 1),
        },
        n_rounds=n_rounds,
    )
    return timings, _scratch_bytes(lambda: breed_all(_SIGMA))


def _scratch_bytes(run: Callable[[], None]) -> int:
    """By how much the process grows beyond what it had: the peak of its resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise LookupError(name)


def main() -> None:
    parser = argparse.ArgumentParser(description="The evolution step.")
    parser.add_argument("--rounds", type=int, default=7)
    measure(n_rounds=parser.parse_args().rounds).save()


if __name__ == "__main__":
    main()
