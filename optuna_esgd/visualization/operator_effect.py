"""What selection, recombination and luck contribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_esgd.engine.individual import Birth
from optuna_esgd.visualization.bars import stack_shares
from optuna_esgd.visualization.history import BIRTHS, Floats, History, read_history
from optuna_esgd.visualization.style import COLOURS, count_generations, lay_out, styles

_NAMES: Mapping[Birth, str] = {
    "founder": "Founder",
    "elite": "Elite",
    "survivor": "Survivor by luck",
    "recombination": "Recombination",
}


class OperatorEffect(NamedTuple):
    """What the figure shows.

    Attributes:
        elite_shares: (G, births) how the m best of each generation were born; rows add up to 1.
        gains: Per kind of birth but founders, 5 %, quartiles and 95 % of what one SGD step gained;
            absent where nobody was born that way.
        is_relative: Whether gains are parts of the value at birth. They are differences where
            training takes fitness across zero, or away from it: there parts say nothing.
        names: Of the kinds of birth, for readers.
    """

    elite_shares: Floats
    gains: dict[Birth, Floats]
    is_relative: bool
    names: Mapping[Birth, str]


def plot_operator_effect(study: optuna.Study, *, store: str | None = None) -> go.Figure:
    """Plot how the m best of each generation were born, and what training gained by birth.

    Above: shares of the kinds of birth among the elite (after Cui et al. 2018, Fig. 2). Below:
    how much of its value at birth an individual's SGD step took away, by kind of birth; 5 % to
    95 %, quartiles, median. Founders are left out: from random weights everything is a gain. Where
    training takes values across zero it is how much they gained, not which part.

    Args:
        study: One whose population trains weights.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
    """
    return draw_operator_effect(operator_effect(read_history(study, store=store)))


def operator_effect(history: History) -> OperatorEffect:
    """Count births among the elite and summarise gains."""
    elite = history.is_elite
    counts = np.zeros((history.n_generations, len(BIRTHS)))
    np.add.at(counts, (history.generation[elite], history.birth[elite]), 1)
    born, ended = history.birth_fitness, history.fitness
    known = np.isfinite(born) & np.isfinite(ended) & (history.birth != BIRTHS.index("founder"))
    keeps_side = (np.sign(born) == np.sign(ended)) | (ended == 0)
    is_relative = bool(keeps_side[known].all())
    gain = np.full(history.n_individuals, np.nan)
    with np.errstate(over="ignore"):
        gain[known] = born[known] - ended[known]
        if is_relative:  # of zero there is nothing to gain
            np.divide(gain, np.abs(born), out=gain, where=known & (born != 0))
    gains: dict[Birth, Floats] = {}
    for index, birth in enumerate(BIRTHS):
        mine = gain[np.isfinite(gain) & (history.birth == index)]
        if len(mine):
            gains[birth] = np.quantile(mine, (0.05, 0.25, 0.5, 0.75, 0.95))
    names = {**_NAMES, "survivor": "Copy of one of the best"} if history.is_truncating else _NAMES
    return OperatorEffect(counts / counts.sum(axis=1, keepdims=True), gains, is_relative, names)


def draw_operator_effect(shown: OperatorEffect) -> go.Figure:
    """Draw stacked bars above boxes."""
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.25, row_heights=[0.6, 0.4])
    n_generations = len(shown.elite_shares)
    looks = styles([shown.names[birth] for birth in BIRTHS])
    stack_shares(figure, shown.elite_shares, looks, title="Elite", row=1)
    scale, of_what = (100, " (Part of the Value at Birth)") if shown.is_relative else (1, "")
    for birth, quantiles in shown.gains.items():
        low, first, median, third, high = ([float(scale * one)] for one in quantiles)
        figure.add_box(
            y=[shown.names[birth]],
            lowerfence=low,
            q1=first,
            median=median,
            q3=third,
            upperfence=high,
            orientation="h",
            marker={"color": COLOURS[BIRTHS.index(birth)]},
            name=shown.names[birth],
            showlegend=False,
            row=2,
            col=1,
        )
    figure.update_yaxes(type="category", row=2, col=1)
    count_generations(figure, n_generations, row=1)
    figure.update_xaxes(
        title_text=f"Gain of an SGD Step{of_what}",
        ticksuffix="%" if shown.is_relative else "",
        range=None,
        autorange=True,
        rangemode="tozero",
        tickformat="",
        dtick=None,
        row=2,
        col=1,
    )
    return lay_out(figure, "Operator Effect", is_empty=n_generations == 0)
