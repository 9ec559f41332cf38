"""Trains a small study, serves it, and takes the pictures that README.md shows.

``make screenshots`` runs this. It needs a Chromium.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from browsing import find_chromium, launch, serving
from playwright.sync_api import Browser, Page, sync_playwright
from spirals import N_WORKERS, STUDY, train

FOLDER = Path(__file__).parent
# Name of a width -> pixels.
WIDTHS = {"wide": 1280, "narrow": 400}
THEMES = ("light", "dark")


def main() -> None:
    """Train, serve, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to put the pictures")
    folder = parser.parse_args().folder
    chromium = find_chromium()
    if chromium is None:
        sys.exit("There is no chromium on the path, and pictures are taken with one.")
    with tempfile.TemporaryDirectory() as scratch:
        url = f"sqlite:///{scratch}/esgd.db"
        with ProcessPoolExecutor(N_WORKERS, mp_context=get_context("spawn")) as workers:
            list(workers.map(train, [url] * N_WORKERS))
        with serving(url) as root, sync_playwright() as playwright:
            browser = launch(playwright, chromium)
            for width in WIDTHS:
                for theme in THEMES:
                    take(browser, root, folder, width, theme)
            browser.close()


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
