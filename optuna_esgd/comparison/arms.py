"""The arms by name, and how each is given a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from optuna_esgd.comparison.outcome import Outcome
from optuna_esgd.comparison.populations import POPULATIONS, epochs_per_step, train_population
from optuna_esgd.comparison.runs import Run, total_cost
from optuna_esgd.comparison.searches import search_by_tpe
from optuna_esgd.engine.configuration import Settings
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.benchmark import Benchmark

Arm = Callable[..., Outcome]

REFERENCE = "esgd"
# Said by the benchmark, or in proportion to its population, unless an arm says otherwise.
_OF_TASKS = frozenset(
    {"seed", "population_size", "n_offspring", "n_elites", "n_epochs", "n_generations"}
)
_OF_RECIPES = frozenset({"rate_schedule"})
ARMS: dict[str, Arm] = {
    **{name: partial(train_population, name) for name in POPULATIONS},
    "tpe": search_by_tpe,
}


def settings_of_arm(arm: str) -> dict[str, Any]:
    """All settings of a population arm, but those that the task decides; none of other arms."""
    if arm not in POPULATIONS:
        return {}
    named = POPULATIONS[arm]
    open_ = (_OF_TASKS | _OF_RECIPES if arm == "single" else _OF_TASKS) - named.keys()
    return {name: it for name, it in Settings(**named).resolve().items() if name not in open_}


def check_arms(names: Sequence[str]) -> list[str]:
    """The arms to run: the reference first, then those named.

    Raises:
        ConfigurationError: One of them is not known.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise ConfigurationError(
            f"Arms must be some of {', '.join(ARMS)}, got {', '.join(map(repr, unknown))}."
        )
    return list(dict.fromkeys([REFERENCE, *names]))


def run_arm(
    arm: str,
    benchmark: Benchmark,
    *,
    seed: int,
    n_epochs: int,
    device: str | torch.device | None = None,
) -> Run:
    """Run one arm with one seed; the test set is touched once, at the end.

    Args:
        arm: One of ``ARMS``.
        benchmark: The task with this seed.
        seed: Of the method.
        n_epochs: Epochs of each of ``population_size`` individuals, or networks.
        device: Where to train; the first GPU if there is one, else the CPU.
    """
    before = time.perf_counter()
    outcome = ARMS[arm](benchmark, n_epochs=n_epochs, seed=seed, device=device)
    seconds = time.perf_counter() - before
    spent = {
        "n_gradients": outcome.n_gradients,
        "n_forwards": outcome.n_forwards,
        "n_evaluations": outcome.n_evaluations,
    }
    return Run(
        arm=arm,
        seed=seed,
        n_epochs=n_epochs,
        validation=outcome.validation,
        test=benchmark.scores(outcome.model),
        cost=total_cost(benchmark.task, **spent),
        seconds=seconds,
        **spent,
    )


def epochs_at_cost(run: Run, benchmark: Benchmark, cost: int) -> int:
    """How many epochs an arm may train each individual at a total cost.

    Args:
        run: What the arm has cost before.
        benchmark: The task.
        cost: What it may cost, see ``total_cost``.

    Returns:
        Whole SGD steps, one at least, as many as the cost per epoch of that run allows.
    """
    step = epochs_per_step(run.arm, benchmark) if run.arm in POPULATIONS else 1
    return max(1, run.n_epochs * cost // (run.cost * step)) * step
