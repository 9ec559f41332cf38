"""``optuna-esgd compare``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from optuna_esgd.errors import ConfigurationError

_ARMS = "esgd,paper,pbt,random,tpe,single"


def add_compare_command(commands: Any) -> None:
    """Add the command that trains other methods too."""
    compare = commands.add_parser(
        "compare", help="train with ESGD and with other methods at equal budgets"
    )
    compare.add_argument(
        "benchmark", metavar="FILE.py:NAME", help="the function (seed) -> esgd.Benchmark"
    )
    compare.add_argument(
        "--arms",
        default=_ARMS,
        metavar="ARM,...",
        help="some of esgd, paper, baseline, pbt, random, tpe, single (default: %(default)s); "
        "esgd is always among them",
    )
    compare.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 (%(default)s)"
    )
    compare.add_argument("--json", type=Path, metavar="FILE", help="write every run here")
    compare.add_argument("--figure", type=Path, metavar="FILE.html", help="draw every run here")
    compare.set_defaults(run=_compare)


def _compare(parsed: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from optuna_esgd.comparison.arms import check_arms  # noqa: PLC0415  (torch when needed)
    from optuna_esgd.comparison.compare import compare  # noqa: PLC0415
    from optuna_esgd.comparison.figure import draw  # noqa: PLC0415
    from optuna_esgd.comparison.report import tables, write_json  # noqa: PLC0415
    from optuna_esgd.comparison.runs import Run  # noqa: PLC0415

    arms = check_arms([arm for arm in parsed.arms.split(",") if arm])
    if parsed.seeds < 1:
        raise ConfigurationError(f"--seeds must be at least 1, got {parsed.seeds}.")
    for path in (parsed.json, parsed.figure):  # not only after hours of training
        if path is not None and not path.parent.is_dir():
            raise ConfigurationError(f"There is no folder {path.parent} to write {path.name} to.")

    def say(run: Run) -> None:
        print(
            f"{run.arm} seed {run.seed}, {run.n_epochs} epochs each: validation "
            f"{run.validation:.4g} in {run.seconds:.1f} s",
            file=sys.stderr,
        )

    comparison = compare(
        _find_benchmark(parsed.benchmark),
        arms=arms,
        seeds=range(parsed.seeds),
        name=parsed.benchmark,
        on_run=say,
    )
    console = Console()
    for table in tables(comparison):
        console.print(table)
    if parsed.json is not None:
        write_json(comparison, parsed.json)
    if parsed.figure is not None:
        draw(comparison).write_html(parsed.figure, include_plotlyjs=True)
    return 0


def _find_benchmark(text: str) -> Any:
    from optuna_esgd.trainer.named_files import load_named_file  # noqa: PLC0415

    path, module, name = load_named_file(text, "the benchmark", "digits_esgd.py:mlp")
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigurationError(
            f"{path.name} must define {name} as a function that takes a seed and returns an "
            f"esgd.Benchmark; got {type(found).__name__}."
        )
    return found
