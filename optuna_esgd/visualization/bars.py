"""Stacked bars of shares per generation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from optuna_esgd.visualization.history import Floats
from optuna_esgd.visualization.style import Style, small

# With more generations bars are too narrow for patterns and gaps.
_MOST_WIDE = 60


def stack_shares(
    figure: go.Figure,
    shares: Floats,
    looks: Sequence[Style],
    *,
    title: str,
    row: int,
    showlegend: bool = True,
) -> None:
    """Add one bar per generation to a row.

    Args:
        figure: With rows.
        shares: (G, parts) each row adds up to 1.
        looks: One per part.
        title: Of the y axis.
        row: From 1.
        showlegend: Whether these bars are the ones the legend shows.
    """
    is_wide = len(shares) <= _MOST_WIDE
    for at, look in enumerate(looks):
        figure.add_bar(
            x=small(np.arange(len(shares))),
            y=small(100 * shares[:, at]),
            name=look.name,
            legendgroup=look.name,
            showlegend=showlegend,
            marker={
                "color": look.colour,
                "line": {"width": 0},
                "pattern": {
                    "shape": look.pattern if is_wide else "",
                    "fgcolor": "white",
                    "fillmode": "overlay",
                    "size": 6,
                    "solidity": 0.15,
                },
            },
            hovertemplate="%{y:.0f}&#37;",
            row=row,
            col=1,
        )
    figure.update_yaxes(range=[0, 100], ticksuffix="%", title_text=title, row=row, col=1)
    figure.update_layout(barmode="stack", bargap=0.1 if is_wide else 0)
