"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.worker.environment import STORAGE_VARIABLE, STORE_VARIABLE


def add_database(parser: argparse.ArgumentParser) -> None:
    """A study that is there: its database, its name, and where its weights are."""
    add_url(parser, of="the study")
    parser.add_argument("--study", required=True, help="study name")


def add_url(parser: argparse.ArgumentParser, *, of: str) -> None:
    """A database that is there, and that of the weights.

    Args:
        parser: Of the command.
        of: What is in the database.
    """
    parser.add_argument(
        "url", nargs="?", help=f"database URL of {of} (default: the variable ESGD_STORAGE)"
    )
    parser.add_argument("--storage", metavar="URL", help="the same, as other commands name it")
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        help="database URL of the weights, if it is another one (or the variable ESGD_STORE)",
    )


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
    _add_store(parser)
    parser.add_argument("--device", help="where to train, e.g. cuda:0 (default: GPUs, or the CPU)")


def storage_of(parsed: argparse.Namespace) -> str:
    """The study's database: as given, or from the environment.

    Raises:
        ConfigurationError: It is in neither, or was given twice.
    """
    given = {one for one in (parsed.storage, getattr(parsed, "url", None)) if one}
    if len(given) > 1:
        raise ConfigurationError(
            "Two databases were given: one URL is enough, with --storage or without."
        )
    storage: str | None = given.pop() if given else os.environ.get(STORAGE_VARIABLE)
    if not storage:
        raise ConfigurationError(
            f"Name the study's database: --storage URL, or the variable {STORAGE_VARIABLE}."
        )
    return storage


def store_of(parsed: argparse.Namespace) -> str | None:
    """The database of the weights, if it is another one: as given, or from the environment."""
    return parsed.store or os.environ.get(STORE_VARIABLE)
