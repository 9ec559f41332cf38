"""``optuna-esgd replay``, ``schedule`` and ``results``: what is done after training."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_esgd.cli.arguments import add_trainer, storage_of, store_of
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.named_files import look_up

if TYPE_CHECKING:
    from optuna_esgd.engine.individual import Individual
    from optuna_esgd.worker.loading import Trained


def add_after_commands(commands: Any) -> None:
    """Add the commands for a study that has been trained."""
    replay = commands.add_parser(
        "replay", help="train the best one's genealogy again, and end at the same digest"
    )
    add_trainer(replay, study="study name")
    replay.add_argument("--trial", type=int, help="trial number (default: the best individual)")
    replay.set_defaults(run=_replay)

    schedule = commands.add_parser(
        "schedule", help="write the best one's schedule as a plain PyTorch training script"
    )
    add_trainer(schedule, study="study name")
    schedule.add_argument("--trial", type=int, help="trial number (default: the best individual)")
    schedule.add_argument("--output", type=Path, required=True, help="the script to write")
    schedule.set_defaults(run=_schedule)

    results = commands.add_parser(
        "results", help="compare the best with soups and the ensemble of the last population"
    )
    add_trainer(results, study="study name")
    results.add_argument(
        "--test",
        metavar="NAME",
        help="in the same file: what scores a model on data that took no part (esgd.HeldOut); "
        "reported, never chosen by",
    )
    results.add_argument(
        "--output", type=Path, help="write the chosen one's state dict here (.safetensors)"
    )
    results.set_defaults(run=_results)


def _open(parsed: argparse.Namespace) -> Trained:
    from optuna_esgd.worker.loading import open_trained  # noqa: PLC0415 - torch when needed

    return open_trained(
        parsed.trainer,
        storage=storage_of(parsed),
        study=parsed.study,
        store=store_of(parsed),
        device=parsed.device,
    )


def _replay(parsed: argparse.Namespace) -> int:
    from optuna_esgd.trainer.replay import replay  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    opened = _open(parsed)

    def say(one: Individual) -> None:
        print(f"{one.reference} {one.species}: {one.weights}", flush=True)

    done = replay(opened.study, opened.trainer, trial=parsed.trial, on_trained=say)
    print(
        f"The same: individual {done.individual.reference} has digest {done.digest}. Trained "
        f"{done.n_ancestors} of {done.n_trained_in_run} individuals and {done.n_companions} "
        f"companions; {done.n_gradients} of {done.n_gradients_in_run} gradients."
    )
    return 0


def _schedule(parsed: argparse.Namespace) -> int:
    from optuna_esgd.trainer.schedule import export_schedule  # noqa: PLC0415

    opened = _open(parsed)
    print(export_schedule(opened.study, opened.trainer, parsed.output, trial=parsed.trial))
    return 0


def _results(parsed: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from optuna_esgd.trainer.comparing_results import compare_results  # noqa: PLC0415
    from optuna_esgd.trainer.results import write_tensors  # noqa: PLC0415
    from optuna_esgd.trainer.written_files import checked_target  # noqa: PLC0415

    if parsed.output is not None:  # not only after minutes of scoring
        checked_target(parsed.output)
    opened = _open(parsed)
    test = None if parsed.test is None else _find_test(opened, parsed.test)
    store = opened.trainer.store
    results = compare_results(opened.study, opened.trainer.task, test=test, store=store)
    names = [f"test {name}" for name in results[0].test]
    table = Table("", "members", "validation", *names, "passes", "MB", "time")
    for one in results:
        table.add_row(
            f"{one.name} *" if one.is_chosen else one.name,
            str(one.n_members),
            *(f"{value:.4g}" for value in (one.value, *one.test.values())),
            str(one.cost.n_forwards),
            f"{one.cost.n_bytes / 1e6:.3g}",
            f"{one.cost.relative_seconds:.2f}",
        )
    Console().print(table)
    print("* is chosen by validation. Passes, size and time are those of inference.")
    if parsed.output is not None:
        chosen = next(one for one in results if one.is_chosen)
        metadata = {"study": opened.study.study_name, "made": chosen.name}
        print(write_tensors(parsed.output, chosen.model.state_dict(), metadata))
    return 0


def _find_test(opened: Trained, name: str) -> Any:
    test = look_up(opened.file.path, opened.file.module, name)
    if not callable(test):
        raise ConfigurationError(
            f"{opened.file.path.name} must define {name} as a function of a model that returns "
            f"scores by name, such as an esgd.HeldOut; got {type(test).__name__}."
        )
    return test
