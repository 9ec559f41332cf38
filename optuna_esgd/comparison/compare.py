"""Runs all arms with all seeds, at equal gradients and then at equal total cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from optuna_esgd.comparison.arms import REFERENCE, check_arms, epochs_at_cost, run_arm
from optuna_esgd.comparison.runs import Run
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.benchmark import Benchmark


class Comparison(NamedTuple):
    """All runs.

    Attributes:
        name: What was compared on.
        equal_gradients: By arm: one run per seed, each individual with ``n_epochs_each`` epochs.
        equal_cost: By arm: one run per seed, with as many epochs as the cost of the reference of
            this seed allows. The same runs where that is as many.
    """

    name: str
    equal_gradients: dict[str, list[Run]]
    equal_cost: dict[str, list[Run]]


def compare(
    build: Callable[[int], Benchmark],
    *,
    arms: Sequence[str],
    seeds: Iterable[int],
    name: str = "",
    on_run: Callable[[Run], object] | None = None,
) -> Comparison:
    """Run all arms with all seeds.

    Args:
        build: Makes the benchmark of a seed.
        arms: See ``arms.ARMS``; the reference is always among them.
        seeds: Of task and method alike, so that differences are between methods.
        name: What is compared on.
        on_run: Told of each run as it ends.

    Raises:
        ConfigurationError: An arm is not known, or ``build`` makes something else.
    """
    names = check_arms(arms)
    tell = (lambda _: None) if on_run is None else on_run
    made = Comparison(name, {arm: [] for arm in names}, {arm: [] for arm in names})
    for seed in seeds:
        benchmark = build(seed)
        if not isinstance(benchmark, Benchmark):
            raise ConfigurationError(
                "The function to compare on must take a seed and return an esgd.Benchmark, it "
                f"returned {type(benchmark).__name__}."
            )
        for arm in names:
            run = run_arm(arm, benchmark, seed=seed, n_epochs=benchmark.n_epochs_each)
            tell(run)
            made.equal_gradients[arm].append(run)
            n_epochs = epochs_at_cost(run, benchmark, made.equal_gradients[REFERENCE][-1].cost)
            if n_epochs != run.n_epochs:
                run = run_arm(arm, benchmark, seed=seed, n_epochs=n_epochs)
                tell(run)
            made.equal_cost[arm].append(run)
    return made
