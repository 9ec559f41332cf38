"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os

from optuna_esgd.errors import ConfigurationError


def add_database(parser: argparse.ArgumentParser) -> None:
    """A study that is there: its database, its name, and where its weights are."""
    parser.add_argument("url", help="database URL of the study")
    parser.add_argument("--study", required=True, help="study name")
    parser.add_argument("--store", help="database URL of the weights, if it is another one")


def add_trainer(parser: argparse.ArgumentParser, *, study: str) -> None:
    """A trainer in a file, and its study.

    Args:
        parser: Of the command.
        study: What is said of the study's name.
    """
    parser.add_argument("trainer", metavar="FILE.py:TRAINER", help="the ESGDTrainer in your file")
    parser.add_argument(
        "--storage", help="database URL of the study (default: the variable ESGD_STORAGE)"
    )
    parser.add_argument("--study", required=True, help=study)
    parser.add_argument(
        "--store",
        help="database URL of the weights, if it is another one (or the variable ESGD_STORE)",
    )
    parser.add_argument("--device", help="where to train, e.g. cuda:0 (default: GPUs, or the CPU)")


def storage_of(parsed: argparse.Namespace) -> str:
    """The study's database: as given, or from the environment.

    Raises:
        ConfigurationError: It is in neither.
    """
    from optuna_esgd.worker.loading import STORAGE_VARIABLE  # noqa: PLC0415 - torch when needed

    storage: str | None = parsed.storage or os.environ.get(STORAGE_VARIABLE)
    if storage is None:
        raise ConfigurationError(
            f"Name the study's database: --storage URL, or the variable {STORAGE_VARIABLE}."
        )
    return storage


def store_of(parsed: argparse.Namespace) -> str | None:
    """The database of the weights, if it is another one: as given, or from the environment."""
    from optuna_esgd.worker.loading import STORE_VARIABLE  # noqa: PLC0415

    return parsed.store or os.environ.get(STORE_VARIABLE)
