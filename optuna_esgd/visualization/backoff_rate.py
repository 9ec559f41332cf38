"""How often training made things worse, by species."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go

from optuna_esgd.visualization.history import Floats, History, read_history
from optuna_esgd.visualization.style import count_generations, lay_out, small, species_styles


class BackoffRate(NamedTuple):
    """What the figure shows.

    Attributes:
        rate: (species, G) back-offs per chance, 0 to 1; NaN where a species did not train.
        species: Names.
        chance: What one chance is, in words.
    """

    rate: Floats
    species: tuple[str, ...]
    chance: str


def plot_backoff_rate(study: optuna.Study, *, store: str | None = None) -> go.Figure:
    """Plot how often each species returned to an earlier point, per generation.

    With ``back_off="step"`` per epoch, with ``"best"`` per SGD step. The colours always run from
    0 to 100 %: many back-offs mean learning rates that are too high, or a population that has
    arrived.

    Args:
        study: One whose population trains weights.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
    """
    return draw_backoff_rate(backoff_rate(read_history(study, store=store)))


def backoff_rate(history: History) -> BackoffRate:
    """Add up back-offs and chances per species and generation."""
    shape = (len(history.species), history.n_generations)
    taken, chances = np.zeros(shape), np.zeros(shape)
    at = (history.species_index, history.generation)
    np.add.at(taken, at, history.n_back_offs)
    np.add.at(chances, at, history.n_chances)
    rate = np.full(shape, np.nan)
    np.divide(taken, chances, out=rate, where=chances > 0)
    names = tuple(style.name for style in species_styles(history))
    return BackoffRate(rate, names, "Epoch" if history.backs_off_each_epoch else "SGD Step")


def draw_backoff_rate(shown: BackoffRate) -> go.Figure:
    """Draw one row per species."""
    figure = go.Figure()
    n_species, n_generations = shown.rate.shape
    if n_generations:
        figure.add_heatmap(
            x=small(np.arange(n_generations)),
            y=list(shown.species),
            z=small(100 * shown.rate),
            zmin=0,
            zmax=100,
            colorscale="Cividis",
            colorbar={"ticksuffix": "%", "thickness": 12},
            hoverongaps=False,
            hovertemplate="Generation %{x}, %{y}: %{z:.0f}&#37;<extra></extra>",
        )
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, zeroline=False)
    count_generations(figure, n_generations)
    title = f"Back-Off Rate (per {shown.chance})"
    return lay_out(figure, title, is_empty=n_species == 0)
