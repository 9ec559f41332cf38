"""Both dashboards in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from safetensors.torch import load_file

import optuna_esgd as esgd
from dashboards.browsing import find_chromium, launch, serving
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.store.engines import close_databases
from optuna_esgd.visualization.figures import FIGURES
from tests.dashboard.served import NASTY, train
from tests.trainer.studies import make_study, make_task
from tests.visualization.studies import toy_study

CHROMIUM = find_chromium()
if CHROMIUM is None:
    pytest.skip("No chromium: the pages are not tested in one.", allow_module_level=True)
pytestmark = pytest.mark.slow
# Sizes of a laptop and a telephone.
SIZES = {"wide": {"width": 1280, "height": 800}, "narrow": {"width": 400, "height": 800}}


# Shown as HTML it would ask for a picture that is not there, and run what then happens.
MARKUP = "<img src=nowhere onerror=alert(1)>"


class Served(NamedTuple):
    root: str
    url: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None  # else there are no tests
    with sync_playwright() as playwright:
        browser = launch(playwright, CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(trained_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("served") / "esgd.db"
    shutil.copy(trained_file, path)
    url = f"sqlite:///{path}"
    nasty = train(url, name=NASTY, n_trials=4)
    nasty._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    storage = esgd.create_storage(url)
    toy_study(storage=storage, name="names", spaces={MARKUP: {MARKUP: FloatRange(0.1, 1.0)}})
    storage.engine.dispose()
    close_databases()
    with serving(url) as root:
        yield Served(root, url)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=SIZES["wide"], accept_downloads=True)
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def complaints(context: BrowserContext) -> Iterator[list[str]]:
    """What pages of this context write to the console; nothing, when the test is over."""
    found: list[str] = []
    context.on(
        "console",
        lambda one: found.append(one.text) if one.type in ("error", "warning") else None,
    )
    context.on("weberror", lambda one: found.append(str(one.error)))
    context.on("dialog", lambda one: (found.append(one.message), one.dismiss()))
    yield found
    assert found == []


@pytest.fixture
def page(context: BrowserContext, complaints: list[str]) -> Page:
    return context.new_page()


def open_live(page: Page, root: str, name: str = "s") -> None:
    page.goto(f"{root}/esgd/{quote(name, safe='')}")
    page.wait_for_selector("body[data-shown]")


def expect_theme(page: Page, theme: str) -> None:
    expect(page.locator("html")).to_have_attribute("data-theme", theme)


def see(section: Locator) -> None:
    """Bring a figure into view: it is drawn when it is seen."""
    section.scroll_into_view_if_needed()
    section.locator(".main-svg").first.wait_for()


def draw_all(page: Page) -> None:
    for section in page.locator("section.figure").all():
        see(section)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_live_page_shows_everything(
    browser: Browser, served: Served, size: str, theme: str
) -> None:
    context = browser.new_context(viewport=SIZES[size], color_scheme=theme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda one: complaints.append(one.text))
    page.on("pageerror", lambda one: complaints.append(str(one)))
    foreign: list[str] = []
    page.on("request", lambda one: foreign.append(one.url))
    open_live(page, served.root)
    draw_all(page)
    assert [one.get_attribute("id") for one in page.locator("section.figure").all()] == list(
        FIGURES
    )
    expect(page.locator("#numbers dd").first).to_have_text("12")
    expect_theme(page, theme)
    # Nothing makes the page wider than the window.
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size]["width"]
    assert complaints == []
    assert [url for url in foreign if not url.startswith((served.root, "data:", "blob:"))] == []
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_optuna_dashboard_shows_the_study(browser: Browser, served: Served, theme: str) -> None:
    context = browser.new_context(viewport=SIZES["wide"], color_scheme=theme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda one: complaints.append(str(one)))
    page.goto(f"{served.root}/")
    page.get_by_text("s (id=1)").or_(page.get_by_text("1. s")).first.click()
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert re.search(r"/dashboard/studies/1", page.url)
    assert complaints == []
    context.close()


def test_the_theme_is_switched_and_remembered(page: Page, served: Served) -> None:
    open_live(page, served.root)
    button = page.locator("#theme")
    page.emulate_media(color_scheme="light")
    expect(button).to_have_text("Theme: auto")
    expect_theme(page, "light")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    expect_theme(page, "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    button.click()
    expect(button).to_have_text("Theme: light")
    expect_theme(page, "light")
    page.reload()
    expect(button).to_have_text("Theme: light")
    expect_theme(page, "light")
    page.goto(f"{served.root}/esgd/")
    expect_theme(page, "light")


def test_figures_take_the_theme(page: Page, served: Served) -> None:
    open_live(page, served.root)
    see(page.locator("#genealogy"))
    title = page.locator("#genealogy .xtitle")
    light = title.evaluate("(one) => getComputedStyle(one).fill")
    page.emulate_media(color_scheme="dark")
    expect_theme(page, "dark")
    assert title.evaluate("(one) => getComputedStyle(one).fill") != light


def range_of(plot: Locator) -> list[float]:
    found: list[float] = plot.evaluate("(one) => one._fullLayout.xaxis.range")
    return found


def zoom(page: Page, area: Locator) -> None:
    """Draw a frame with the mouse."""
    box = area.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=5)
    page.mouse.up()


def test_an_update_arrives_and_leaves_the_zoom(page: Page, served: Served) -> None:
    open_live(page, served.root)
    see(page.locator("#genealogy"))
    plot = page.locator("#genealogy .js-plotly-plot")
    drawn = plot.locator(".scatterlayer .point").count()
    whole = range_of(plot)
    zoom(page, plot.locator(".nsewdrag"))
    zoomed = range_of(plot)
    assert whole[0] < zoomed[0] < zoomed[1] < whole[1]
    shown = page.locator("body").get_attribute("data-shown")
    before = int(page.locator("#numbers dd").first.inner_text())
    train(served.url, n_trials=4)
    expect(page.locator("#numbers dd").first).to_have_text(str(before + 4), timeout=30_000)
    assert page.locator("body").get_attribute("data-shown") != shown
    expect(plot.locator(".scatterlayer .point")).not_to_have_count(drawn)
    assert range_of(plot) == zoomed
    area = plot.locator(".nsewdrag")
    area.scroll_into_view_if_needed()
    area.dblclick(position={"x": 5, "y": 5})
    page.wait_for_timeout(500)
    assert range_of(plot) == [whole[0], whole[1] + 1]


def test_nothing_is_sent_while_nothing_changes(page: Page, served: Served) -> None:
    open_live(page, served.root)
    with page.expect_response(lambda one: "/esgd-api/state" in one.url) as polled:
        pass
    assert polled.value.status == 304


def test_a_click_on_an_individual_opens_its_trial(page: Page, served: Served) -> None:
    open_live(page, served.root)
    see(page.locator("#genealogy"))
    box = page.locator("#genealogy .scatterlayer .point").first.bounding_box()
    assert box is not None
    with page.context.expect_page() as opened:
        page.mouse.move(box["x"] + box["width"] / 2 - 3, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    trial = opened.value
    found = re.search(r"/dashboard/studies/1/trials\?numbers=(\d+)$", trial.url)
    assert found is not None
    trial.get_by_text(f"Trial {found[1]} (trial_id=").wait_for()


def test_a_download_gives_the_weights(page: Page, served: Served, tmp_path: Path) -> None:
    open_live(page, served.root)
    row = page.locator("#individuals tr", has=page.locator("th a")).first
    number = int(row.locator("th a").inner_text())
    with page.expect_download() as downloading:
        row.get_by_text("Download").click()
    path = tmp_path / "weights.safetensors"
    downloading.value.save_as(path)
    study = make_study(storage=esgd.create_storage(served.url))
    model = esgd.load_individual(study, number, make_task().build_model())
    expected = model.state_dict()
    assert all((tensor == expected[name]).all() for name, tensor in load_file(path).items())
    assert downloading.value.suggested_filename.endswith(".safetensors")


def test_everything_can_be_reached_by_keyboard(page: Page, served: Served) -> None:
    open_live(page, served.root)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
    assert "Download" in reached
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#theme")).to_have_text("Theme: light")


def test_markup_in_names_is_text(page: Page, served: Served) -> None:
    page.goto(f"{served.root}/esgd/")
    page.get_by_role("link", name=NASTY).click()
    page.wait_for_selector("body[data-shown]")
    draw_all(page)
    assert page.locator("h1").inner_text() == NASTY
    assert page.title().startswith(NASTY)
    expect(page.locator("#numbers dd").first).to_have_text("4")
    assert page.locator("h1 script").count() == 0


def test_markup_in_names_of_species_and_hyperparameters_is_text(
    page: Page, served: Served
) -> None:
    open_live(page, served.root, "names")
    draw_all(page)
    expect(page.locator("#individuals tr").first).to_contain_text(f"{MARKUP}{MARKUP} 0.")
    assert MARKUP in (page.locator("#genealogy .legend").text_content() or "")
    assert page.locator("img").count() == 0


def test_a_lost_connection_is_told_and_found_again(
    context: BrowserContext, served: Served
) -> None:
    page = context.new_page()
    open_live(page, served.root)
    page.route("**/esgd-api/state*", lambda route: route.abort())
    expect(page.locator("#problem")).to_have_text("The server does not answer.", timeout=30_000)
    expect(page.locator("#status")).to_have_text("Trying again")
    page.unroute("**/esgd-api/state*")
    expect(page.locator("#problem")).to_be_hidden(timeout=60_000)


def test_a_token_is_asked_for_once(context: BrowserContext, trained_url: str) -> None:
    page = context.new_page()
    environment = {**os.environ, "OPTUNA_ESGD_TOKEN": "a-token-from-the-environment"}
    with serving(trained_url, "--token", environment=environment) as root:
        answer = page.goto(f"{root}/esgd/s")
        assert answer is not None
        assert answer.status == 401
        page.goto(f"{root}/esgd/s?token=a-token-from-the-environment")
        page.wait_for_selector("body[data-shown]")
        assert page.url == f"{root}/esgd/s"
        page.goto(f"{root}/dashboard/studies/1")
        page.wait_for_selector(".js-plotly-plot .main-svg")
