"""Which variant an example here trains: a name on the command line, or the first."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def example_name(known: Iterable[str], description: str | None) -> str:
    """The name given, the first one if none is; another ends the program with a list of all."""
    names = list(known)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name", nargs="?", choices=names, default=names[0])
    name: str = parser.parse_args().name
    return name
