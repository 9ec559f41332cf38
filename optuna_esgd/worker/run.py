"""``optuna-esgd run``: a whole population on this machine, with one progress display."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import optuna
from rich.console import Console

from optuna_esgd.engine.actions import Stop
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.faces import find_sampler
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.worker.devices import environment, share_out
from optuna_esgd.worker.environment import STORAGE_VARIABLE, STORE_VARIABLE
from optuna_esgd.worker.launcher import WorkerProcess
from optuna_esgd.worker.loading import Workplace, open_workplace
from optuna_esgd.worker.progress import PopulationProgress
from optuna_esgd.worker.signals import INTERRUPTED, stopping_on_signals
from optuna_esgd.worker.work import describe_end, work_until_stopped

_POLL_SECONDS = 0.2
_STOPPED = "Stopped. Nothing is lost: the same command goes on."


def run(workplace: Workplace, *, n_workers: int | None, checkpoint_seconds: float) -> int:
    """Train until all generations are done, with several worker processes.

    Workers that die are started again. Ctrl-C (and SIGTERM) lets them save their work and end; a
    second one ends them at once. Either way nothing that is stored is lost, and the same command
    goes on.

    Args:
        workplace: What is trained, and where.
        n_workers: None for one on each GPU, or without GPUs one on each core.
        checkpoint_seconds: See ``work``.

    Returns:
        The exit status: 0 when all is done, 130 when interrupted.

    Raises:
        EsgdError: Something is wrong with the trainer, the study or the database; nothing was
            started.
        WorkerError: A worker keeps dying.
    """
    trainer, study = open_workplace(workplace)
    size = find_sampler(study).settings.population_size
    devices = share_out(n_workers, device=workplace.device, most=size)
    trainer.expected_workers = len(devices)
    loop = trainer.open(study)
    console = Console(stderr=True, log_path=False)
    if isinstance(loop.decide(), Stop):
        return end_here(trainer, study, checkpoint_seconds=checkpoint_seconds, console=console)
    if n_workers is None:
        devices = devices[: count_cohorts(loop)]
    crew = "1 worker" if len(devices) == 1 else f"{len(devices)} workers"
    console.log(f"{crew} on {', '.join(dict.fromkeys(devices))}")
    workers: list[WorkerProcess] = []

    def stop(n_signals: int) -> None:
        for worker in workers:
            worker.stop() if n_signals == 1 else worker.kill()

    with stopping_on_signals(stop) as signals, PopulationProgress(loop, console) as progress:
        try:
            for worker in _start(workplace, devices, checkpoint_seconds, console):
                workers.append(worker)
                if signals:  # one that came while it was being started has not reached it
                    worker.stop()
                    break
            _watch(workers, signals, progress, console)
        finally:
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.wait()
    if signals:
        console.log(_STOPPED)
        return INTERRUPTED
    console.log(describe_end(loop))
    return 0


def end_here(
    trainer: ESGDTrainer, study: optuna.Study, *, checkpoint_seconds: float, console: Console
) -> int:
    """End a run with nothing left to train: this process shows what dead workers have left.

    Args:
        trainer: What was trained.
        study: Where.
        checkpoint_seconds: See ``work``.
        console: Where it says so.

    Returns:
        The exit status: 0 when all is done, 130 when interrupted.
    """
    console.log("There is nothing left to train.")
    status = work_until_stopped(trainer, study, checkpoint_seconds=checkpoint_seconds)
    console.log(describe_end(trainer.open(study)) if status == 0 else _STOPPED)
    return 0 if status == 0 else INTERRUPTED


def count_cohorts(loop: WorkLoop) -> int:
    """How many workers can train at the same time."""
    configuration = loop.configuration
    return math.ceil(configuration.population_size / configuration.cohort_size)


def _start(
    workplace: Workplace, devices: list[str], checkpoint_seconds: float, console: Console
) -> Iterator[WorkerProcess]:
    """Start one worker on each device, when the next one is asked for."""
    variables = {**environment(len(devices)), **_urls(workplace)}
    for number, device in enumerate(devices):
        yield WorkerProcess(
            f"worker {number}",
            worker_command(workplace, device, checkpoint_seconds),
            variables,
            lambda text: console.log(text, markup=False, highlight=False),
        )


def _watch(
    workers: Sequence[WorkerProcess],
    signals: Sequence[int],
    progress: PopulationProgress,
    console: Console,
) -> None:
    """Show how it goes on until all have ended."""
    is_told = False
    while [worker for worker in workers if not worker.is_done()]:
        if signals and not is_told:  # here: a handler may not print
            is_told = True
            console.log("Waiting for the workers to save; a second Ctrl-C ends them now.")
        # Whoever died of it is started again when the database is back, not before.
        while not progress.update() and not signals:
            pass
        time.sleep(_POLL_SECONDS)


def worker_command(workplace: Workplace, device: str, checkpoint_seconds: float) -> list[str]:
    """The command line of one worker; URLs travel in its environment, where ``ps`` is blind."""
    options = {
        "--study": workplace.study,
        "--device": device,
        "--generations": workplace.n_generations,
        "--direction": workplace.direction,
        "--checkpoint-every": checkpoint_seconds,
    }
    given = [part for name, one in options.items() if one is not None for part in (name, str(one))]
    return [
        sys.executable,
        "-m",
        "optuna_esgd.cli",
        "worker",
        workplace.trainer,
        "--quiet",
        *given,
    ]


def _urls(workplace: Workplace) -> Mapping[str, str]:
    urls = {STORAGE_VARIABLE: workplace.storage, STORE_VARIABLE: workplace.store}
    return {name: url for name, url in urls.items() if url is not None}
