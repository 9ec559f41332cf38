"""Command line: argparse, no logic."""

from __future__ import annotations

from optuna_esgd.cli.main import main

__all__ = ["main"]
