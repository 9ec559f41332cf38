"""``optuna-esgd compare``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.worker.signals import INTERRUPTED

if TYPE_CHECKING:
    from optuna_esgd.comparison.ledger import Budget

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
        help="some of esgd, unaveraged, paper, baseline, pbt, random, tpe, single (default: "
        "%(default)s); esgd is always among them",
    )
    compare.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="how many seeds (%(default)s)"
    )
    compare.add_argument(
        "--first-seed", type=int, default=0, metavar="SEED", help="the first one (%(default)s)"
    )
    compare.add_argument(
        "--budgets",
        default="gradients,cost",
        help="gradients, or gradients,cost: equal gradients, then equal total cost (%(default)s)",
    )
    compare.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes that share it (%(default)s)"
    )
    compare.add_argument(
        "--device", help="where to train, e.g. cuda:1 (the first GPU, or the CPU)"
    )
    compare.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write every run here as it ends; what is in it already is not done again",
    )
    compare.add_argument("--figure", type=Path, metavar="FILE.html", help="draw every run here")
    compare.set_defaults(run=_compare)


def _compare(parsed: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from optuna_esgd.comparison.arms import check_arms  # noqa: PLC0415  (torch when needed)
    from optuna_esgd.comparison.compare import check_benchmark, compare  # noqa: PLC0415
    from optuna_esgd.comparison.figure import draw  # noqa: PLC0415
    from optuna_esgd.comparison.ledger import Comparison  # noqa: PLC0415
    from optuna_esgd.comparison.named import NamedBenchmark  # noqa: PLC0415
    from optuna_esgd.comparison.report import read_description, read_json, tables, write_json  # noqa: PLC0415
    from optuna_esgd.comparison.runs import Run  # noqa: PLC0415

    arms, budgets = check_arms([arm for arm in parsed.arms.split(",") if arm]), _check(parsed)

    def say(run: Run) -> None:
        print(
            f"{run.arm} seed {run.seed}, {run.n_epochs} epochs each: validation "
            f"{run.validation:.4g} in {run.seconds:.1f} s",
            file=sys.stderr,
        )

    def save(comparison: Comparison) -> None:
        if parsed.json is not None:
            write_json(comparison, parsed.json, benchmark=described)

    build = NamedBenchmark(parsed.benchmark)
    benchmark = check_benchmark(build(parsed.first_seed))
    benchmark.check(parsed.device)
    before, described = None, {}
    if parsed.json is not None:
        described = benchmark.describe()
        described[f"examples of seed {parsed.first_seed}"] = benchmark.describe_examples()
        if parsed.json.exists():
            before = read_json(parsed.json, parsed.benchmark, described)
            described = read_description(parsed.json) | described
    try:
        comparison = compare(
            build,
            arms=arms,
            seeds=range(parsed.first_seed, parsed.first_seed + parsed.seeds),
            name=parsed.benchmark,
            budgets=budgets,
            before=before,
            n_jobs=parsed.jobs,
            device=parsed.device,
            on_run=say,
            on_progress=save,
        )
    except KeyboardInterrupt:
        kept = "Stopped. What has ended is kept only in a --json."
        if parsed.json is not None and parsed.json.exists():
            kept = f"Stopped. {parsed.json} has what has ended: the same command goes on."
        print(kept, file=sys.stderr)
        return INTERRUPTED
    save(comparison)
    asked = comparison.of(arms)  # the file may have others, and keeps them
    console = Console()
    for table in tables(asked):
        console.print(table)
    if parsed.figure is not None:
        draw(asked).write_html(parsed.figure, include_plotlyjs=True)
    return 0


def _check(parsed: argparse.Namespace) -> list[Budget]:
    """Refuse impossible arguments before anything is trained; the budgets that are named."""
    from optuna_esgd.comparison.ledger import BUDGETS  # noqa: PLC0415
    from optuna_esgd.trainer.written_files import checked_target  # noqa: PLC0415

    for name, value in {"--seeds": parsed.seeds, "--jobs": parsed.jobs}.items():
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {value}.")
    named = [budget for budget in parsed.budgets.split(",") if budget]
    if "gradients" not in named or set(named) - set(BUDGETS):
        raise ConfigurationError(
            "--budgets must be gradients, or gradients,cost (what an arm may cost is known from "
            f"its run at equal gradients), got {parsed.budgets!r}."
        )
    if parsed.figure is not None and parsed.figure.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(f"--figure writes a page, FILE.html, got {parsed.figure.name}.")
    for path in (parsed.json, parsed.figure):  # not only after hours of training
        if path is not None:
            checked_target(path)
    return [budget for budget in BUDGETS if budget in named]
