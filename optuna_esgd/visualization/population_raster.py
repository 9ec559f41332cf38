"""Everybody at once: rank by generation, coloured by species."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go

from optuna_esgd.visualization.history import BIRTHS, Floats, History, Integers, read_history
from optuna_esgd.visualization.style import (
    MOST_IN_DETAIL,
    Style,
    count_generations,
    lay_out,
    small,
    species_styles,
)

# What a birth looks like; founders and elites have no mark.
_MARKS = {"recombination": "cross", "survivor": "circle"}


class PopulationRaster(NamedTuple):
    """What the figure shows; each array is (ranks, G), best first.

    Attributes:
        species: Into ``styles``; -1 where nobody has finished.
        birth: Into ``BIRTHS``; -1 likewise.
        trial: -1 where there is none.
        value: In the study's direction; NaN where nobody has finished.
        styles: Of the species.
        survivor: What survivors that were not among the elite are called.
    """

    species: Integers
    birth: Integers
    trial: Integers
    value: Floats
    styles: tuple[Style, ...]
    survivor: str


def plot_population_raster(study: optuna.Study, *, store: str | None = None) -> go.Figure:
    """Plot rank by generation: a cell is an individual, coloured by species, marked by birth.

    A cross is a recombination (averaged and mutated), a circle a survivor that was not among the
    elite (with truncation a copy of one of the best); elites and founders have no mark. Marks are
    left out in large populations.

    Args:
        study: One whose population trains weights.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
    """
    return draw_population_raster(population_raster(read_history(study, store=store)))


def population_raster(history: History) -> PopulationRaster:
    """Put every individual into the cell of its generation and rank."""
    n_ranks = int(history.rank.max()) + 1 if history.n_individuals else 0
    shape = (n_ranks, history.n_generations)
    at = (history.rank, history.generation)

    def cells(column: Integers) -> Integers:
        grid = np.full(shape, -1, dtype=np.int64)
        grid[at] = column
        return grid

    value = np.full(shape, np.nan)
    value[at] = history.shown(history.fitness)
    return PopulationRaster(
        species=cells(history.species_index),
        birth=cells(history.birth),
        trial=cells(history.trial),
        value=value,
        styles=species_styles(history),
        survivor="Copy of one of the best" if history.is_truncating else "Survived by luck",
    )


def draw_population_raster(shown: PopulationRaster) -> go.Figure:
    """Draw cells, then marks."""
    figure = go.Figure()
    n_ranks, n_generations = shown.species.shape
    if shown.species.size:
        _draw_cells(figure, shown)
    for style in shown.styles:
        marker = {"symbol": "square", "size": 12, "color": style.colour}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=style.name)
    if shown.species.size <= MOST_IN_DETAIL:
        _draw_marks(figure, shown)
    figure.update_yaxes(title_text="Rank", range=[n_ranks + 0.5, 0.5], showgrid=False)
    figure.update_yaxes(zeroline=False, tickformat="d")
    figure.update_xaxes(showgrid=False, zeroline=False)
    count_generations(figure, n_generations)
    return lay_out(figure, "Population Raster", is_empty=n_generations == 0)


def _draw_cells(figure: go.Figure, shown: PopulationRaster) -> None:
    n_ranks, n_generations = shown.species.shape
    is_detailed = shown.species.size <= MOST_IN_DETAIL
    steps = np.linspace(0, 1, len(shown.styles) + 1).repeat(2)[1:-1]
    colours = np.repeat([style.colour for style in shown.styles], 2)
    figure.add_heatmap(
        x=small(np.arange(n_generations)),
        y=small(np.arange(1, n_ranks + 1)),
        z=small(np.where(shown.species < 0, np.nan, shown.species)),
        zmin=-0.5,
        zmax=len(shown.styles) - 0.5,
        customdata=small(shown.trial),
        hovertext=_describe(shown) if is_detailed else None,
        colorscale=list(zip(steps.tolist(), colours.tolist(), strict=True)),
        showscale=False,
        xgap=1 if is_detailed else 0,
        ygap=1 if is_detailed else 0,
        hoverongaps=False,
        hovertemplate="Generation %{x}, rank %{y}, trial %{customdata}<br>%{hovertext}"
        "<extra></extra>"
        if is_detailed
        else "Generation %{x}, rank %{y}, trial %{customdata}<extra></extra>",
    )


def _describe(shown: PopulationRaster) -> list[list[str]]:
    """Species, birth and value of every cell, in words."""
    return [
        [
            "" if species < 0 else f"{shown.styles[species].name}, {BIRTHS[birth]}: {value:.6g}"
            for species, birth, value in zip(*row, strict=True)
        ]
        for row in zip(shown.species, shown.birth, shown.value, strict=True)
    ]


def _draw_marks(figure: go.Figure, shown: PopulationRaster) -> None:
    names = {"recombination": "Bred", "survivor": shown.survivor}
    for birth, symbol in _MARKS.items():
        rank, generation = np.nonzero(shown.birth == BIRTHS.index(birth))
        figure.add_scatter(
            x=small(generation),
            y=small(rank + 1),
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 6,
                "color": "white",
                "line": {"color": "#333333", "width": 1},
            },
            name=names[birth],
            hoverinfo="skip",
        )
