"""Which species the population, and its elite, consist of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_esgd.visualization.bars import stack_shares
from optuna_esgd.visualization.history import Booleans, Floats, History, read_history
from optuna_esgd.visualization.style import (
    Style,
    count_generations,
    lay_out,
    species_styles,
)


class SpeciesShare(NamedTuple):
    """What the figure shows; each array is (G, species), and its rows add up to 1.

    Attributes:
        population: Of all individuals of a generation.
        elite: Of the m best.
        styles: Of the species.
    """

    population: Floats
    elite: Floats
    styles: tuple[Style, ...]


def plot_species_share(study: optuna.Study, *, store: str | None = None) -> go.Figure:
    """Plot the species' shares of the population, and of the m best, per generation.

    Args:
        study: One whose population trains weights.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
    """
    return draw_species_share(species_share(read_history(study, store=store)))


def species_share(history: History) -> SpeciesShare:
    """Count species."""
    everyone = np.ones(history.n_individuals, dtype=np.bool_)
    shape = (history.n_generations, len(history.species))

    def shares(rows: Booleans) -> Floats:
        counts = np.zeros(shape)
        np.add.at(counts, (history.generation[rows], history.species_index[rows]), 1)
        parts: Floats = counts / counts.sum(axis=1, keepdims=True)
        return parts

    return SpeciesShare(shares(everyone), shares(history.is_elite), species_styles(history))


def draw_species_share(shown: SpeciesShare) -> go.Figure:
    """Draw stacked bars, the population above its elite."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    n_generations = len(shown.population)
    stack_shares(figure, shown.population, shown.styles, title="Population", row=1)
    stack_shares(figure, shown.elite, shown.styles, title="Elite", row=2, showlegend=False)
    count_generations(figure, n_generations, row=2)
    return lay_out(figure, "Species Share", is_empty=n_generations == 0, hovermode="x unified")
