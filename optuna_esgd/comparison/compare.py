"""Runs all arms with all seeds, at equal gradients and then at equal total cost."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
    wait,
)
from typing import TypeVar

import optuna
import torch

from optuna_esgd.comparison.arms import REFERENCE, check_arms, epochs_at_cost, run_arm
from optuna_esgd.comparison.ledger import BUDGETS, Budget, Comparison, Ledger, Unit
from optuna_esgd.comparison.runs import Run
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.benchmark import Benchmark

_T = TypeVar("_T")


def compare(  # noqa: PLR0913  (a declaration: all by keyword)
    build: Callable[[int], Benchmark],
    *,
    arms: Sequence[str],
    seeds: Iterable[int],
    name: str = "",
    budgets: Sequence[Budget] = BUDGETS,
    before: Comparison | None = None,
    n_jobs: int = 1,
    device: str | torch.device | None = None,
    on_run: Callable[[Run], object] | None = None,
    on_progress: Callable[[Comparison], object] | None = None,
) -> Comparison:
    """Run all arms with all seeds.

    Where a run raises, those that other processes are at are finished and told of first.

    Args:
        build: Makes the benchmark of a seed. With several jobs it travels to other processes, so
            pickle must know it.
        arms: See ``arms.ARMS``; the reference is always among them.
        seeds: Of task and method alike, so that differences are between methods.
        name: What is compared on.
        budgets: At equal gradients, which is always among them, and at equal total cost.
        before: What an interrupted comparison has got to; its runs are not done again.
        n_jobs: How many processes share the work. Each trains as it would alone.
        device: Where to train; the first GPU if there is one, else the CPU.
        on_run: Told of each run as it ends.
        on_progress: Told of all runs, those of ``before`` among them, when some have ended.

    Returns:
        All runs, in the order of arms and seeds.

    Raises:
        ConfigurationError: An arm is not known, or ``build`` makes something else.
    """
    names = check_arms(arms)
    ledger = Ledger(name, names, has_cost="cost" in budgets, before=before)
    ready = deque(
        unit
        for seed in dict.fromkeys(seeds)
        # The others are told what the reference has cost.
        for unit in ledger.missing(seed, [REFERENCE]) or ledger.missing(seed, names)
    )
    pending: dict[Future[Run], Unit] = {}

    def enter(future: Future[Run]) -> Unit:
        unit, run = pending.pop(future), future.result()
        ledger.enter(unit, run)
        if on_run is not None and not _is_known(unit, run):
            on_run(run)
        if on_progress is not None:
            on_progress(ledger.comparison())
        return unit

    with _workers(n_jobs) as workers, _finishing(pending, enter):
        while ready or pending:
            while ready and len(pending) < n_jobs:
                unit = ready.popleft()
                pending[workers.submit(_run_unit, build, unit, device)] = unit
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                unit = enter(future)
                followers = names if unit.arm == REFERENCE else [unit.arm]
                # At the front: what has begun is completed before the next seed begins.
                ready.extendleft(reversed(ledger.missing(unit.seed, followers)))
    return ledger.comparison()


@contextlib.contextmanager
def _finishing(
    pending: Mapping[Future[Run], Unit], enter: Callable[[Future[Run]], object]
) -> Iterator[None]:
    """Where a run raises, finish those that are under way: the pool would throw them away."""
    try:
        yield
    except Exception:
        for future in as_completed(pending):
            if future.exception() is None:
                enter(future)
        raise


def check_benchmark(made: object) -> Benchmark:
    """What the function to compare on has made.

    Raises:
        ConfigurationError: It is no benchmark.
    """
    if not isinstance(made, Benchmark):
        raise ConfigurationError(
            "The function to compare on must take a seed and return an esgd.Benchmark, it "
            f"returned {type(made).__name__}."
        )
    return made


def _run_unit(
    build: Callable[[int], Benchmark], unit: Unit, device: str | torch.device | None
) -> Run:
    """The run of a unit; the known one where another would have as many epochs."""
    benchmark = check_benchmark(build(unit.seed))
    n_epochs = benchmark.n_epochs_each
    if unit.known is not None and unit.cost is not None:
        n_epochs = epochs_at_cost(unit.known, benchmark, unit.cost)
        if n_epochs == unit.known.n_epochs:
            return unit.known
    return run_arm(unit.arm, benchmark, seed=unit.seed, n_epochs=n_epochs, device=device)


def _is_known(unit: Unit, run: Run) -> bool:
    return unit.known is not None and run.n_epochs == unit.known.n_epochs


class _InThisProcess(Executor):
    """Works when it is asked to."""

    def submit(self, fn: Callable[..., _T], /, *args: object, **kwargs: object) -> Future[_T]:
        """The result, known already."""
        future: Future[_T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _workers(n_jobs: int) -> Executor:
    if n_jobs < 1:
        raise ConfigurationError(f"There must be at least one job, got {n_jobs}.")
    if n_jobs == 1:
        return _InThisProcess()
    # Not forked: torch's threads and GPUs do not survive that.
    return ProcessPoolExecutor(
        n_jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(max(1, (os.cpu_count() or 1) // n_jobs), optuna.logging.get_verbosity()),
    )


def _begin_worker(n_threads: int, verbosity: int) -> None:
    torch.set_num_threads(n_threads)
    optuna.logging.set_verbosity(verbosity)
