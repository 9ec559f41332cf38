"""The family tree, laid out so that main lines never cross."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.visualization.descent import common_ancestor, is_alive, main_line
from optuna_esgd.visualization.history import Booleans, Floats, History, Integers, read_history
from optuna_esgd.visualization.style import (
    BEST,
    GREY,
    MOST_IN_DETAIL,
    Style,
    count_generations,
    fade,
    lay_out,
    small,
    species_styles,
)


class Genealogy(NamedTuple):
    """What the figure shows.

    Attributes:
        generation: (n,)
        position: (n,) within the generation, from 0.
        species_index: (n,) into ``styles``.
        number: (n,)
        trial: (n,) -1 where there is none.
        value: (n,) in the study's direction.
        is_alive: (n,) whether on a main line that has not died out.
        first_parent: (n,) row, -1 for founders.
        line: Rows of the target's main line, the founder first; empty where nobody has finished.
        others: (edges, 2) rows: an individual of that line, and another parent of it.
        ancestor_generation: Of the common ancestor; None while there is none.
        styles: Of the species.
    """

    generation: Integers
    position: Integers
    species_index: Integers
    number: Integers
    trial: Integers
    value: Floats
    is_alive: Booleans
    first_parent: Integers
    line: Integers
    others: Integers
    ancestor_generation: int | None
    styles: tuple[Style, ...]


def plot_genealogy(
    study: optuna.Study, target: int | FrozenTrial | None = None, *, store: str | None = None
) -> go.Figure:
    """Plot who descends from whom: a line leads from each individual to its first parent.

    Each generation is sorted by the position of the first parent, then by rank, as in a
    Wright-Fisher diagram, so that these lines never cross. Lines that died out are pale, those
    that are alive grey, the target's is strong, and its other parents are dotted. The title
    tells in which generation the latest common ancestor of all who are alive lived. Of large
    populations only the survivors are drawn.

    Args:
        study: One whose population trains weights.
        target: Whose line to show: a trial or its number; the best individual if None.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
        ConfigurationError: The target shows no finished individual.
    """
    return draw_genealogy(genealogy(read_history(study, store=store), target))


def genealogy(history: History, target: int | FrozenTrial | None = None) -> Genealogy:
    """Lay out the tree and find the target's line."""
    row = history.best if target is None else _row_of(history, target)
    line = np.empty(0, dtype=np.int64) if row is None else main_line(history, row)
    ancestor = common_ancestor(history)
    on_line = np.isin(history.child, line) & (
        history.parent != history.first_parent[history.child]
    )
    return Genealogy(
        generation=history.generation,
        position=_positions(history),
        species_index=history.species_index,
        number=history.number,
        trial=history.trial,
        value=history.shown(history.fitness),
        is_alive=is_alive(history),
        first_parent=history.first_parent,
        line=line,
        others=np.stack([history.child[on_line], history.parent[on_line]], axis=1),
        ancestor_generation=None if ancestor is None else int(history.generation[ancestor]),
        styles=species_styles(history),
    )


def draw_genealogy(shown: Genealogy) -> go.Figure:
    """Draw lines, then individuals, then the target."""
    figure = go.Figure()
    is_detailed = len(shown.generation) <= MOST_IN_DETAIL
    children = np.flatnonzero(shown.first_parent >= 0)
    edges = np.stack([children, shown.first_parent[children]], axis=1)
    alive = shown.is_alive[children]
    line = np.stack([shown.line[1:], shown.line[:-1]], axis=1)
    if is_detailed:
        _draw_edges(figure, shown, edges[~alive], "Died out", fade(GREY, 0.25), width=1)
    _draw_edges(figure, shown, edges[alive], "Alive", fade(GREY, 0.9), width=1.5)
    _draw_edges(figure, shown, shown.others, "Other parents", BEST, width=1.5, dash="dot")
    _draw_edges(figure, shown, line, "Main line", BEST, width=3)
    for index, style in enumerate(shown.styles):
        mine = (shown.species_index == index) & (shown.is_alive | is_detailed)
        _draw_individuals(figure, shown, np.flatnonzero(mine), style)
    if len(shown.line):
        _draw_target(figure, shown)
    figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False)
    figure.update_xaxes(showgrid=False, zeroline=False)
    n_generations = int(shown.generation.max(initial=-1)) + 1
    count_generations(figure, n_generations)
    since = shown.ancestor_generation
    told = "No Common Ancestor Yet" if since is None else f"Common Ancestor in Generation {since}"
    return lay_out(figure, f"Genealogy ({told})", is_empty=n_generations == 0)


def _row_of(history: History, target: int | FrozenTrial) -> int:
    number = target if isinstance(target, int) else target.number
    rows = np.flatnonzero((history.trial == number) & (history.trial >= 0))
    if not len(rows):
        raise ConfigurationError(
            f"target must be a trial that shows a finished individual, or its number; trial "
            f"{number} shows none."
        )
    return int(rows[0])


def _positions(history: History) -> Integers:
    """Sort each generation by (position of the first parent, rank)."""
    position = history.rank.copy()
    for generation in range(1, history.n_generations):
        rows = history.rows(generation)
        parents = position[history.first_parent[rows]]
        order = np.lexsort((history.rank[rows], parents))
        position[rows] = np.argsort(order)
    return position


def _draw_edges(
    figure: go.Figure,
    shown: Genealogy,
    edges: Integers,
    name: str,
    colour: str,
    *,
    width: float,
    dash: str = "solid",
) -> None:
    """Draw lines from child to parent, as one trace with gaps."""
    gap = np.full((len(edges), 1), np.nan)
    x = np.hstack([shown.generation[edges].reshape(-1, 2), gap])
    y = np.hstack([shown.position[edges].reshape(-1, 2), gap])
    figure.add_scatter(
        x=small(x.ravel()),
        y=small(y.ravel()),
        mode="lines",
        line={"color": colour, "width": width, "dash": dash},
        name=name,
        hoverinfo="skip",
    )


def _draw_individuals(figure: go.Figure, shown: Genealogy, rows: Integers, style: Style) -> None:
    figure.add_scatter(
        x=small(shown.generation[rows]),
        y=small(shown.position[rows]),
        customdata=_customdata(shown, rows),
        mode="markers",
        marker={
            "color": style.colour,
            "symbol": style.symbol,
            "size": 7,
            "opacity": np.where(shown.is_alive[rows], np.float32(1), np.float32(0.35)),
        },
        name=style.name,
        hovertemplate=_HOVER,
    )


def _draw_target(figure: go.Figure, shown: Genealogy) -> None:
    row = shown.line[-1:]
    figure.add_scatter(
        x=small(shown.generation[row]),
        y=small(shown.position[row]),
        customdata=_customdata(shown, row),
        mode="markers",
        marker={
            "color": BEST,
            "symbol": "star",
            "size": 15,
            "line": {"color": "white", "width": 1},
        },
        name="Target of the main line",
        hovertemplate=_HOVER,
    )


_HOVER = (
    "Generation %{x}, individual %{customdata[1]}, trial %{customdata[0]}<br>"
    "Value %{customdata[2]}<extra>%{fullData.name}</extra>"
)


def _customdata(shown: Genealogy, rows: Integers) -> Floats:
    columns = (shown.trial[rows], shown.number[rows], shown.value[rows])
    stacked: Floats = small(np.stack(columns, axis=1).astype(np.float64))
    return stacked
