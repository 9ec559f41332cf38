"""``optuna-esgd doctor``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from optuna_esgd.errors import ConfigurationError


def add_doctor_command(commands: Any) -> None:
    """Add the command that examines a trainer before it is run."""
    doctor = commands.add_parser(
        "doctor", help="examine a trainer: will the guarantee hold, and what will a run cost"
    )
    doctor.add_argument("trainer", metavar="FILE.py:TRAINER", help="the ESGDTrainer in your file")
    doctor.add_argument(
        "--workers", type=int, default=1, metavar="N", help="how many there will be (%(default)s)"
    )
    doctor.add_argument(
        "--generations", type=int, help="how many there will be (default: as the sampler says)"
    )
    doctor.add_argument(
        "--device", help="where to train, e.g. cuda:0 (default: a GPU, or the CPU)"
    )
    doctor.add_argument(
        "--direction",
        choices=("minimize", "maximize"),
        default="minimize",
        help="of the study (%(default)s)",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON, with all numbers")
    doctor.set_defaults(run=_doctor)


def _doctor(parsed: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from optuna_esgd.doctor import examine  # noqa: PLC0415  (torch when needed)
    from optuna_esgd.doctor.report import render, to_json  # noqa: PLC0415
    from optuna_esgd.worker.loading import load_trainer  # noqa: PLC0415

    if parsed.workers < 1:
        raise ConfigurationError(f"--workers must be at least 1, got {parsed.workers}.")
    trainer, sampler = load_trainer(
        parsed.trainer, device=parsed.device, n_generations=parsed.generations
    )
    checkup = examine(
        trainer,
        sampler,
        direction=parsed.direction,
        n_workers=parsed.workers,
        say=lambda text: print(f"{text} ...", file=sys.stderr),
    )
    if parsed.json:
        print(to_json(checkup))
    else:
        Console().print(render(checkup))
    return 0 if checkup.is_guaranteed else 1
