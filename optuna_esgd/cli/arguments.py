"""Arguments that several commands share."""

from __future__ import annotations

import argparse


def add_database(parser: argparse.ArgumentParser) -> None:
    """A study that is there: its database, its name, and where its weights are."""
    parser.add_argument("url", help="database URL of the study")
    parser.add_argument("--study", required=True, help="study name")
    parser.add_argument("--store", help="database URL of the weights, if it is another one")
