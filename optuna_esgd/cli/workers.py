"""``optuna-esgd worker``, ``run`` and ``status``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import sys
from typing import TYPE_CHECKING, Any

from optuna_esgd.cli.arguments import add_database, add_trainer, storage_of, store_of
from optuna_esgd.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from optuna_esgd.worker.loading import Workplace

_CHECKPOINT_SECONDS = 300.0


def add_worker_commands(commands: Any) -> None:
    """Add the commands that train, and the one that watches."""
    worker = commands.add_parser("worker", help="train as one of any number of workers")
    _add_workplace(worker)
    worker.add_argument("--quiet", action="store_true", help="say nothing but warnings")
    worker.set_defaults(run=_worker)

    run = commands.add_parser(
        "run", help="train with several workers on this machine, or on a Ray cluster"
    )
    _add_workplace(run)
    run.add_argument(
        "--workers",
        type=_count_or_auto,
        default=None,
        metavar="N",
        help="how many, or 'auto': one on each GPU, or without GPUs one on each core (default)",
    )
    run.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="on a Ray cluster: at this address, or the one this machine is part of, or a new one",
    )
    run.add_argument(
        "--cpus-per-worker",
        type=int,
        metavar="N",
        help="with --ray: cores of a worker (default: they are shared out)",
    )
    run.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="N",
        help="with --ray: GPUs of a worker, or the part of one (default: 1 if there are any)",
    )
    run.set_defaults(run=_run)

    status = commands.add_parser("status", help="how a population is doing")
    add_database(status)
    status.add_argument("--watch", action="store_true", help="keep it up to date until Ctrl-C")
    status.set_defaults(run=_status)


def _add_workplace(parser: argparse.ArgumentParser) -> None:
    add_trainer(parser, study="study name; made if it is not there")
    parser.add_argument(
        "--generations", type=int, help="train so many (default: as the file's sampler says)"
    )
    parser.add_argument(
        "--direction",
        choices=("minimize", "maximize"),
        help="of the study (a new one: minimize)",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=float,
        default=_CHECKPOINT_SECONDS,
        metavar="SECONDS",
        help="save long SGD steps this often (default: %(default)g); they are saved as well when "
        "the worker is told to stop",
    )


def _count_or_auto(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a whole number or 'auto', got {text!r}") from None


def _workplace(parsed: argparse.Namespace) -> Workplace:
    from optuna_esgd.worker.loading import Workplace  # noqa: PLC0415 - torch when needed

    return Workplace(
        trainer=parsed.trainer,
        storage=storage_of(parsed),
        study=parsed.study,
        store=store_of(parsed),
        device=parsed.device,
        n_generations=parsed.generations,
        direction=parsed.direction,
    )


def _checkpoint_seconds(parsed: argparse.Namespace) -> float:
    seconds: float = parsed.checkpoint_every
    if math.isnan(seconds) or seconds <= 0:
        raise ConfigurationError(f"--checkpoint-every must be more than 0, got {seconds:g}.")
    return seconds


def _worker(parsed: argparse.Namespace) -> int:
    from optuna_esgd.worker.launcher import TRY_AGAIN  # noqa: PLC0415
    from optuna_esgd.worker.loading import open_workplace  # noqa: PLC0415
    from optuna_esgd.worker.work import work_until_stopped  # noqa: PLC0415

    level = logging.WARNING if parsed.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    seconds = _checkpoint_seconds(parsed)
    try:
        trainer, study = open_workplace(_workplace(parsed))
        return work_until_stopped(trainer, study, checkpoint_seconds=seconds)
    except UnavailableError as error:
        print(f"optuna-esgd: {error}", file=sys.stderr)
        return TRY_AGAIN


def _run(parsed: argparse.Namespace) -> int:
    if parsed.ray is not None:
        return _run_on_ray(parsed)
    if parsed.cpus_per_worker is not None or parsed.gpus_per_worker is not None:
        raise ConfigurationError("--cpus-per-worker and --gpus-per-worker need --ray.")
    from optuna_esgd.worker.run import run  # noqa: PLC0415

    return run(
        _workplace(parsed),
        n_workers=parsed.workers,
        checkpoint_seconds=_checkpoint_seconds(parsed),
    )


def _run_on_ray(parsed: argparse.Namespace) -> int:
    from optuna_esgd.worker.cluster import Request  # noqa: PLC0415
    from optuna_esgd.worker.on_ray import run_on_ray  # noqa: PLC0415

    request = Request(
        n_workers=parsed.workers,
        cpus_each=parsed.cpus_per_worker,
        gpus_each=parsed.gpus_per_worker,
    )
    return run_on_ray(
        _workplace(parsed),
        request,
        address=parsed.ray or None,
        checkpoint_seconds=_checkpoint_seconds(parsed),
    )


def _status(parsed: argparse.Namespace) -> int:
    from optuna_esgd.store.storages import load_study  # noqa: PLC0415
    from optuna_esgd.worker.status import show_status  # noqa: PLC0415

    with contextlib.suppress(KeyboardInterrupt):
        study = load_study(storage_of(parsed), parsed.study)
        show_status(study, store=store_of(parsed), watch=parsed.watch)
    return 0
