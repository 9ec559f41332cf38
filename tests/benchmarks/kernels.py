"""Kernels in C against batched gradients and scores, from small to large networks.

Processor time of one process and one thread; nothing is updated. Rates count the products of a
pass forward and back, two operations each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own abbreviation)
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.trainer.batched_model import BatchedModel
from optuna_esgd.trainer.native_model import NativeModel
from tests.benchmarks.cohorts import empty_cache
from tests.benchmarks.harness import Report, Row, take_turns

_CPU = torch.device("cpu")
_N_SCORED = 256
# A contender goes on for so long in its turn, by what one call took at first.
_TURN_SECONDS = 0.05


@dataclass(frozen=True)
class Size:
    """A network of linear layers and ReLUs, and how it is trained."""

    widths: tuple[int, ...]
    batch_size: int
    n_networks: int

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.widths))}, batch {self.batch_size}"

    def build(self) -> nn.Module:
        """One network."""
        layers: list[nn.Module] = []
        for n_in, n_out in zip(self.widths, self.widths[1:], strict=False):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def task(self) -> esgd.SupervisedTask:
        """On noise."""
        inputs, targets = torch.randn(1024, self.widths[0]), torch.randint(2, (1024,))
        return esgd.SupervisedTask(
            model=self.build,
            loss=F.cross_entropy,
            train=(inputs, targets),
            validation=(inputs[:_N_SCORED], targets[:_N_SCORED]),
            batch_size=self.batch_size,
        )

    @property
    def n_operations(self) -> int:
        """Of one network's gradients; the first layer passes none on to the inputs."""
        products = [a * b for a, b in zip(self.widths, self.widths[1:], strict=False)]
        return 2 * self.batch_size * (3 * sum(products) - products[0])


SIZES = (
    Size((10, 16, 2), 8, 64),
    Size((64, 64, 10), 32, 64),
    Size((64, 64, 64, 64, 64, 10), 16, 32),
    Size((784, 128, 10), 32, 16),
    Size((784, 512, 512, 10), 128, 8),
    Size((784, 1024, 1024, 10), 128, 4),
)


def measure(sizes: Sequence[Size] = SIZES, *, n_rounds: int = 7) -> Report:
    """Time gradients and scores of both kinds in turns.

    Args:
        sizes: Of networks.
        n_rounds: Turns of each contender.
    """
    torch.set_num_threads(1)
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    with empty_cache():
        for size in sizes:
            found, seconds = _measure(size, n_rounds)
            rows += found
            raw[str(size)] = seconds
    return Report(
        "kernels",
        "Gradients and scores by kernels in C",
        "python -m tests.benchmarks.kernels",
        rows,
        raw,
    )


def _measure(size: Size, n_rounds: int) -> tuple[list[Row], dict[str, float]]:
    task, model = size.task(), size.build()
    layout = Layout.of(model)
    started = time.perf_counter()
    native = NativeModel(task, model, layout, _CPU)
    compiling = time.perf_counter() - started
    batched = BatchedModel(task, model, _CPU, n_calls=0)
    weights = Matrix.zeros(layout, size.n_networks, _CPU)
    for row in range(size.n_networks):
        weights.take_from(size.build(), row)
    orders = [torch.randperm(1024)[: size.batch_size] for _ in range(size.n_networks)]
    numbers, keys = torch.stack(orders), torch.zeros(size.n_networks, dtype=torch.int64)
    validation = task.validation.on(_CPU)
    contenders: dict[str, Callable[[], object]] = {}
    for name, one in {"native": native, "batched": batched}.items():
        contenders |= {
            f"{name} gradients": partial(one.batch_gradients, weights, numbers, keys),
            f"{name} scores": partial(one.criterion, weights, *validation),
        }
    with torch.no_grad():
        seconds = _seconds_each(contenders, n_rounds, size.n_networks)
    rate = size.n_operations / seconds["native gradients"] / 1e9
    rows = [
        Row(
            f"{size}: {what}, batched / native",
            seconds[f"batched {what}"] / seconds[f"native {what}"],
            notes=f"{1e6 * seconds[f'native {what}']:.1f} µs per network"
            + (f", {rate:.0f} GFLOP/s" if what == "gradients" else f" and {_N_SCORED} examples"),
        )
        for what in ("gradients", "scores")
    ]
    return [*rows, Row(f"{size}: compiling", compiling, "s")], seconds


def _seconds_each(
    contenders: dict[str, Callable[[], object]], n_rounds: int, n_networks: int
) -> dict[str, float]:
    """Median processor time of one call, for each network."""
    n_calls, turns = {}, {}
    for name, call in contenders.items():
        call()
        started = time.process_time()
        call()
        n_calls[name] = max(1, round(_TURN_SECONDS / max(1e-6, time.process_time() - started)))

        def turn(call: Callable[[], object] = call, n: int = n_calls[name]) -> None:
            for _ in range(n):
                call()

        turns[name] = turn
    timings = take_turns(turns, n_rounds=n_rounds)
    return {name: one.median_cpu / n_calls[name] / n_networks for name, one in timings.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    measure(n_rounds=parser.parse_args(arguments).rounds).save()


if __name__ == "__main__":
    main()
