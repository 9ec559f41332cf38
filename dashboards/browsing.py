"""Serves a database with the real command, and finds a browser to look at it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from playwright.sync_api import Browser, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: in a container there often is none. And nothing that calls somebody.
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What a shell starts in the background ignores Ctrl-C; here it must not.
_PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from optuna_esgd.cli import main
sys.exit(main())
"""


def find_chromium() -> str | None:
    """The path of a browser that Playwright can drive, if there is one."""
    return next((path for path in map(shutil.which, _NAMES) if path is not None), None)


def launch(playwright: Playwright, chromium: str) -> Browser:
    """Start the browser."""
    return playwright.chromium.launch(executable_path=chromium, args=list(_OPTIONS))


@contextmanager
def serving(
    url: str, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run ``optuna-esgd dashboard`` at a free port; gives the address, without a slash."""
    command = [sys.executable, "-c", _PROGRAM, "dashboard", url, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        told = "" if process.stdout is None else process.stdout.readline()
        found = re.search(r"http://[^/]+", told)
        if found is None:
            raise RuntimeError(f"The dashboard did not start, and told {told!r}.")
        yield found.group()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
