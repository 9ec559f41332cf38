"""Who worked when, and who waited."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go

from optuna_esgd.engine.individual import Span
from optuna_esgd.visualization.history import Floats, History, Integers, read_history
from optuna_esgd.visualization.style import (
    MOST_IN_DETAIL,
    Style,
    lay_out,
    plain,
    small,
    species_styles,
)

# Pieces of work with less than this part of the whole time between them become one.
_SMALLEST_GAP = 1e-3
_MOST_PATTERNED = 50
_UNITS = ((86400.0, "Days"), (3600.0, "Hours"), (60.0, "Minutes"), (1.0, "Seconds"))


class Work(NamedTuple):
    """One kind of work, k pieces.

    Attributes:
        style: Colour and name.
        worker: (k,) into the workers.
        start: (k,) seconds since the first piece of all began.
        length: (k,) seconds.
        generation: (k,) of the piece, or of the first of those that were merged.
    """

    style: Style
    worker: Integers
    start: Floats
    length: Floats
    generation: Integers


class WorkerTimeline(NamedTuple):
    """What the figure shows.

    Attributes:
        workers: Names, in the order they appeared.
        works: One per species, one for cohorts of several species, one for scoring offspring;
            those without pieces are left out.
    """

    workers: tuple[str, ...]
    works: tuple[Work, ...]


def plot_worker_timeline(study: optuna.Study, *, store: str | None = None) -> go.Figure:
    """Plot what each worker worked on: one row per worker, gaps are waiting.

    Colours are species; a cohort of several species is grey, scoring offspring dark. A piece of
    work that is not finished reaches to the latest moment known. Short gaps are closed in
    large populations.

    Args:
        study: One whose population trains weights.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
    """
    return draw_worker_timeline(worker_timeline(read_history(study, store=store)))


def worker_timeline(history: History) -> WorkerTimeline:
    """Sort pieces of work by kind."""
    spans = sorted(history.spans, key=lambda span: span.claimed_at)
    if not spans:
        return WorkerTimeline((), ())
    workers = tuple(dict.fromkeys(span.worker for span in spans))
    row_of_worker = {worker: row for row, worker in enumerate(workers)}
    kinds = _kinds(history, spans)
    began = spans[0].claimed_at
    ended = max(max(span.claimed_at, span.finished_at or 0) for span in spans)
    worker = np.array([row_of_worker[span.worker] for span in spans])
    start = np.array([span.claimed_at for span in spans])
    stop = np.array([ended if s.finished_at is None else s.finished_at for s in spans])
    generation = np.array([span.key.generation for span in spans])
    looks = _looks(history)
    works = []
    for kind in np.unique(kinds):
        mine = np.flatnonzero(kinds == kind)
        if len(spans) > MOST_IN_DETAIL:
            first, last = _merge(worker[mine], start[mine], stop[mine], (ended - began))
        else:
            first = last = np.arange(len(mine))
        length = np.maximum(stop[mine[last]] - start[mine[first]], 0)
        of = mine[first]
        works.append(Work(looks[kind], worker[of], start[of] - began, length, generation[of]))
    return WorkerTimeline(tuple(map(plain, workers)), tuple(works))


def draw_worker_timeline(shown: WorkerTimeline) -> go.Figure:
    """Draw bars, one trace per kind of work."""
    figure = go.Figure()
    latest = max((float((w.start + w.length).max()) for w in shown.works), default=0.0)
    seconds, unit = next((one for one in _UNITS if latest >= 2 * one[0]), _UNITS[-1])
    for work in shown.works:
        figure.add_bar(
            orientation="h",
            y=small(work.worker),
            base=small(work.start / seconds),
            x=small(work.length / seconds),
            customdata=small(np.stack([work.generation, work.length], axis=1).astype(float)),
            marker={
                "color": work.style.colour,
                "line": {"width": 0},
                "pattern": {
                    "shape": work.style.pattern if len(work.start) <= _MOST_PATTERNED else "",
                    "fgcolor": "white",
                    "fillmode": "overlay",
                    "solidity": 0.1,
                },
            },
            name=work.style.name,
            hovertemplate="Generation %{customdata[0]}: %{customdata[1]:.3g} s"
            "<extra>%{fullData.name}</extra>",
        )
    rows = list(range(len(shown.workers)))
    figure.update_yaxes(
        tickvals=rows, ticktext=list(shown.workers), autorange="reversed", showgrid=False
    )
    figure.update_xaxes(title_text=f"{unit} Since the First Claim", rangemode="tozero")
    return lay_out(
        figure,
        "Worker Timeline",
        is_empty=not shown.works,
        barmode="overlay",
        bargap=0.2,
        showlegend=True,
    )


def _looks(history: History) -> tuple[Style, ...]:
    """Species, then cohorts of several, then offspring."""
    return (
        *species_styles(history),
        Style("Several species", "#A0A0A0", "circle", ""),
        Style("Scoring offspring", "#606060", "circle", ""),
        Style("Unfinished", "#C8C8C8", "circle", "/"),
    )


def _kinds(history: History, spans: list[Span]) -> Integers:
    """What each piece of work is: a position in ``_looks``."""
    several = len(history.species)
    places = zip(history.generation.tolist(), history.number.tolist(), strict=True)
    row = dict(zip(places, history.species_index.tolist(), strict=True))
    kinds = []
    for span in spans:
        if span.key.round:
            kinds.append(several + 1)
            continue
        found = {row.get((span.key.generation, number), -1) for number in span.numbers}
        only = found.pop()
        kinds.append(several if found else several + 2 if only < 0 else only)
    return np.array(kinds)


def _merge(
    worker: Integers, start: Floats, stop: Floats, total: float
) -> tuple[Integers, Integers]:
    """Where runs of pieces by one worker with almost no gap begin, and where they end."""
    order = np.lexsort((start, worker))
    gap = start[order][1:] - stop[order][:-1]
    breaks = (np.diff(worker[order]) != 0) | (gap > _SMALLEST_GAP * total)
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    last = np.concatenate([np.flatnonzero(breaks), [len(order) - 1]])
    return order[first], order[last]
