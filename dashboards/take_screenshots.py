"""Trains a small study, serves it, and takes the pictures that README.md shows.

``make screenshots`` runs this. It needs a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from spirals import N_WORKERS, STUDY, train

from optuna_esgd.dashboard import make_application
from optuna_esgd.dashboard.guard import Policy
from optuna_esgd.dashboard.server import bind, port_of

FOLDER = Path(__file__).parent
# Name of a width -> pixels.
WIDTHS = {"wide": 1280, "narrow": 400}
THEMES = ("light", "dark")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def main() -> None:
    """Train, serve, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to put the pictures")
    folder = parser.parse_args().folder
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        sys.exit("There is no chromium on the path, and pictures are taken with one.")
    with tempfile.TemporaryDirectory() as scratch:
        url = f"sqlite:///{scratch}/esgd.db"
        with ProcessPoolExecutor(N_WORKERS, mp_context=get_context("spawn")) as workers:
            list(workers.map(train, [url] * N_WORKERS))
        with serving(url) as root, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
            for width in WIDTHS:
                for theme in THEMES:
                    take(browser, root, folder, width, theme)
            browser.close()


@contextmanager
def serving(url: str) -> Iterator[str]:
    """Serve a database at a free port; gives the address."""
    server = bind(make_application(url, policy=Policy()), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port_of(server)}"
    server.close()


def take(browser: Browser, root: str, folder: Path, width: str, theme: str) -> None:
    """Take both dashboards' pictures in one width and theme."""
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": 800},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{root}/esgd/{STUDY}")
    page.wait_for_selector("body[data-shown]")
    draw_everything(page)
    page.screenshot(path=folder / f"live-{width}-{theme}.png", full_page=True)
    # Which of its two themes optuna-dashboard shows is kept by the browser.
    page.evaluate("([key, value]) => localStorage.setItem(key, value)", THEME_KEY[theme])
    page.goto(f"{root}/dashboard/studies/1")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.wait_for_load_state("networkidle")
    page.screenshot(path=folder / f"optuna-dashboard-{width}-{theme}.png")
    context.close()


def draw_everything(page: Page) -> None:
    """Bring every figure into view once: figures are drawn when they are seen."""
    for section in page.locator("section.figure").all():
        section.scroll_into_view_if_needed()
        section.locator(".main-svg").first.wait_for()
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
