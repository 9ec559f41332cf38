"""How much of the population's weights each founder has contributed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_esgd.visualization.descent import effective_number, founder_shares
from optuna_esgd.visualization.history import Floats, History, read_history
from optuna_esgd.visualization.style import (
    GREY,
    count_generations,
    fade,
    lay_out,
    plain,
    small,
    styles,
    widen,
)

_N_SHOWN = 6


class FounderShare(NamedTuple):
    """What the figure shows.

    Attributes:
        names: Of the founders with the largest shares, and of the rest if there is one.
        shares: (G, names) parts of the population; each generation adds up to 1.
        has_rest: Whether the last name stands for all other founders.
        effective: (G,) how many equal founders would be as diverse.
        n_founders: How many there were.
    """

    names: tuple[str, ...]
    shares: Floats
    has_rest: bool
    effective: Floats
    n_founders: int


def plot_founder_share(study: optuna.Study, *, store: str | None = None) -> go.Figure:
    """Plot which founders the population descends from, through all parents.

    An individual descends from its parents in the parts its weights were averaged from. Shown
    are the six founders with the largest areas, and the rest; on the second axis the effective
    number of founders, 1 / Σ share².

    Args:
        study: One whose population trains weights.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
    """
    return draw_founder_share(founder_share(read_history(study, store=store)))


def founder_share(history: History) -> FounderShare:
    """Compute shares, largest area first."""
    shares = founder_shares(history)
    if not len(shares):
        return FounderShare((), shares, False, np.empty(0), 0)
    order = np.argsort(-shares.sum(axis=0), kind="stable")
    largest, rest = order[:_N_SHOWN], order[_N_SHOWN:]
    names = []
    for founder in largest:
        species = plain(history.species[history.species_index[founder]])
        names.append(f"Founder {history.number[founder]}" + (f" ({species})" if species else ""))
    columns = [shares[:, largest]]
    if len(rest):
        names.append(f"{len(rest)} others")
        columns.append(shares[:, rest].sum(axis=1, keepdims=True))
    return FounderShare(
        names=tuple(names),
        shares=np.hstack(columns),
        has_rest=len(rest) > 0,
        effective=effective_number(shares),
        n_founders=len(order),
    )


def draw_founder_share(shown: FounderShare) -> go.Figure:
    """Draw stacked areas, and the effective number over them."""
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    x = np.arange(len(shown.effective))
    looks = styles(shown.names)
    for at, look in enumerate(looks):
        is_rest = shown.has_rest and at == len(looks) - 1
        colour = GREY if is_rest else look.colour
        wide, share = widen(small(x), small(100 * shown.shares[:, at]))
        figure.add_scatter(
            x=wide,
            y=share,
            mode="lines",
            stackgroup="founders",
            name=look.name,
            line={"color": colour, "width": 1},
            fillcolor=fade(colour, 0.35 if is_rest else 0.8),
            hovertemplate="%{y:.1f}&#37;",
        )
    # Grey on white, to be seen on every colour below, and in the legend of a dark page.
    wide, effective = widen(small(x), small(shown.effective))
    for colour, width, dash in (("white", 5, "solid"), ("#6b6b6b", 2, "dash")):
        figure.add_scatter(
            x=wide,
            y=effective,
            mode="lines",
            line={"color": colour, "dash": dash, "width": width},
            name="Effective number of founders",
            legendgroup="effective",
            showlegend=dash == "dash",
            hovertemplate="%{y:.2f}" if dash == "dash" else None,
            hoverinfo=None if dash == "dash" else "skip",
            secondary_y=True,
        )
    figure.update_yaxes(title_text="Share of the Population", range=[0, 100], ticksuffix="%")
    figure.update_yaxes(
        title_text="Effective Founders",
        range=[0, shown.n_founders],
        tickmode="auto",
        ticksuffix="",
        showgrid=False,
        secondary_y=True,
    )
    count_generations(figure, len(x))
    if len(x) > 1:
        figure.update_xaxes(range=[0, len(x) - 1])
    return lay_out(figure, "Founder Share", is_empty=len(x) == 0, hovermode="x unified")
