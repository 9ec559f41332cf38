"""Run benchmarks, each in a process of its own: ``python -m tests.benchmarks [NAME ...]``.

A benchmark is a module here with a ``main``; a new one is found by itself. What follows ``--`` is
passed on to each of them.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Not without arguments that only the user knows, and not without meaning it.
LEFT_OUT = {
    "workers": "give it the URLs of databases: python -m tests.benchmarks.workers URL",
    "ray_pbt": "end_to_end runs it, in an environment of its own",
    "quality": "it takes many hours: python -m tests.benchmarks.quality",
}


def find_benchmarks() -> list[str]:
    """Names of all modules here that can be run."""
    names = [one.name for one in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [
        name
        for name in sorted(names)
        if not name.startswith(("test_", "_")) and (name in LEFT_OUT or _has_main(name))
    ]


def _has_main(name: str) -> bool:
    return hasattr(importlib.import_module(f"tests.benchmarks.{name}"), "main")


def run(name: str, arguments: Sequence[str]) -> bool:
    """Run one benchmark; whether it ended well."""
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
    return subprocess.run(command, check=False).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run those named, or all; the exit status is 1 if one of them failed."""
    found = find_benchmarks()
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(found)}")
    names = parser.parse_args(given[:split]).names
    unknown = [name for name in names if name not in found]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(found)}")
    if not names:
        for name, reason in LEFT_OUT.items():
            print(f"== {name} is left out: {reason}", flush=True)
        names = [name for name in found if name not in LEFT_OUT]
    failed = [name for name in names if not run(name, given[split + 1 :])]
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
