"""What all figures promise."""

from __future__ import annotations

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings

from optuna_esgd.engine.individual import SlotKey, Span
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.visualization import figures
from optuna_esgd.visualization import history as history_module
from optuna_esgd.visualization.figures import FIGURES, draw_all
from optuna_esgd.visualization.history import History
from optuna_esgd.visualization.style import MOST_IN_DETAIL
from tests.visualization.histories import NOTHING, histories, history, one
from tests.visualization.studies import toy_history, toy_study

NAMES = [
    "fitness-by-generation",
    "population-raster",
    "genealogy",
    "hyperparameter-schedule",
    "founder-share",
    "species-share",
    "operator-effect",
    "backoff-rate",
    "worker-timeline",
]
EVIL = "<script>alert('%{x}')</script> $\\alpha$ & <b>x</b>"


@pytest.fixture(scope="module")
def read() -> History:
    return toy_history(20, 30)


def test_names_and_order_stay(read: History) -> None:
    drawn = draw_all(read)
    assert list(drawn) == NAMES
    assert all(isinstance(figure, go.Figure) for figure in drawn.values())


@pytest.mark.parametrize("name", NAMES)
def test_conventions(read: History, name: str) -> None:
    """Title Case, no width, no template of our own, small."""
    figure = _draw(read, name)
    assert read.n_individuals == 600
    assert len(figure.to_json()) < 100_000
    assert figure.layout.width is None
    assert figure.layout.template == go.Figure().layout.template
    title = figure.layout.title.text
    small = {"by", "in", "of", "per", "the"}
    words = re.findall(r"[A-Za-z]+", title)
    assert all(word[0].isupper() or word in small for word in words), title
    axes = [axis.title.text for axis in figure.select_xaxes() if axis.title.text]
    assert "Generation" in axes or name == "worker-timeline"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_see_is_said(name: str) -> None:
    words = [note.text for note in _draw(NOTHING, name).layout.annotations]
    assert words == ["No individual has finished yet."]


@settings(max_examples=15)
@given(histories())
def test_any_history_can_be_drawn(read: History) -> None:
    for figure in draw_all(read).values():
        json.loads(figure.to_json())


def test_names_of_users_are_text() -> None:
    """Nothing a user names becomes markup, a formula or a template."""
    evil = history(
        one(0, 0, 1.0, species=EVIL, hyperparameters={EVIL: 0.1, "kind": EVIL}),
        one(1, 0, 0.5, 0, species=EVIL, hyperparameters={EVIL: 0.2, "kind": EVIL}),
        spans=[Span(SlotKey(0, 0, 0), (0,), EVIL, 0.0, 1.0)],
        name=EVIL,
    )
    n_shown = 0
    for figure in draw_all(evil).values():
        for text in _texts(figure.to_plotly_json()):
            n_shown += "script" in text
            assert "<script" not in text
            assert "<b>" not in text
            assert "$" not in text
            assert "('%" not in text
    assert n_shown >= 7


def test_one_colour_and_symbol_per_species_in_every_figure(read: History) -> None:
    seen: dict[str, set[str]] = {}
    for name, figure in draw_all(read).items():
        if name == "founder-share":
            continue
        for trace in figure.data:
            if trace.name in read.species:
                seen.setdefault(trace.name, set()).add(trace.marker.color)
    assert set(seen) == set(read.species)
    assert all(len(colours) == 1 for colours in seen.values())
    assert len(set.union(*seen.values())) == len(read.species)


def test_eleven_species_look_different() -> None:
    space = {"lr": FloatRange(1e-4, 1.0, "log")}
    many = toy_history(
        33, 2, resample_probability=1.0, spaces={f"S{number:02}": space for number in range(11)}
    )
    figure = _draw(many, "genealogy")
    looks = {
        (trace.marker.color, trace.marker.symbol)
        for trace in figure.data
        if trace.name in many.species
    }
    assert len({colour for colour, _ in looks}) == len(many.species) == 11
    assert len({symbol for _, symbol in looks}) == 11


@pytest.mark.parametrize("name", ["population-raster", "genealogy", "hyperparameter-schedule"])
def test_a_click_finds_the_trial(read: History, name: str) -> None:
    found: set[int] = set()
    for trace in _draw(read, name).data:
        if trace.customdata is not None:
            numbers = np.asarray(trace.customdata)
            flat = numbers[:, 0] if name == "genealogy" else numbers.ravel()
            found |= {int(number) for number in flat}
    assert found - {-1} == set(range(600))


def test_large_populations_are_summarised() -> None:
    """Sizes grow with generations, not with individuals."""
    n = MOST_IN_DETAIL // 40 + 10
    large = history(
        *(
            one(
                generation,
                number,
                float(number + 1),
                *([number // 2] if generation else []),
                hyperparameters={"lr": 0.1 * (number + 1)},
            )
            for generation in range(40)
            for number in range(n)
        ),
        spans=[
            Span(SlotKey(generation, 0, at), (at,), "w", 100.0 * generation + at, finished_at)
            for generation in range(40)
            for at in range(n)
            for finished_at in [100.0 * generation + at + 1]
        ],
    )
    assert large.n_individuals > MOST_IN_DETAIL
    drawn = draw_all(large)
    marks = [t for t in drawn["population-raster"].data if t.name == "Bred"]
    assert marks == []
    lines = {trace.name for trace in drawn["genealogy"].data}
    assert "Died out" not in lines
    assert "Alive" in lines
    dots = [t for t in drawn["hyperparameter-schedule"].data if t.mode == "markers"]
    assert sum(len(t.x) for t in dots) <= MOST_IN_DETAIL
    assert "Middle half" in {trace.name for trace in drawn["hyperparameter-schedule"].data}
    # Pieces without a gap between them are one: one per generation.
    assert [len(trace.x) for trace in drawn["worker-timeline"].data] == [40]


def test_every_plot_function_draws_its_figure(read: History) -> None:
    import optuna_esgd.visualization as face

    study = toy_study(4, 2)
    for name, (collect, draw) in FIGURES.items():
        plot = getattr(face, f"plot_{name.replace('-', '_')}")
        expected = draw(collect(history_module.read_history(study)))
        assert plot(study).to_json() == expected.to_json(), name


def _draw(read: History, name: str) -> go.Figure:
    collect, draw = figures.FIGURES[name]
    return draw(collect(read))


def _texts(content: object) -> list[str]:
    """All texts in a figure but those of the template."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, dict):
        return [t for key, one in content.items() if key != "template" for t in _texts(one)]
    if isinstance(content, list | tuple):
        return [text for one in content for text in _texts(one)]
    return []
