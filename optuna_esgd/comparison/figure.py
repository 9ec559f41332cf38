"""A comparison as a figure: every seed of every arm, and the means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_esgd.comparison.ledger import Comparison
from optuna_esgd.comparison.runs import Run
from optuna_esgd.comparison.summaries import named_test
from optuna_esgd.visualization.style import BEST, COLOURS, helps_log, plain


class Panel(NamedTuple):
    """One kind of budget.

    Attributes:
        title: Which.
        scores: By arm, the headline metric of the test, one per seed.
        means: By arm.
    """

    title: str
    scores: dict[str, list[float]]
    means: dict[str, float]


def panels(comparison: Comparison) -> tuple[str, list[Panel]]:
    """Compute the headline metric's name, and its values at each budget there is."""
    budgets = {
        "Equal Gradients": comparison.equal_gradients,
        "Equal Cost": comparison.equal_cost,
    }
    first = next(iter(comparison.equal_gradients.values()))[0]
    metric = next(iter(named_test(first)))
    return metric, [_panel(title, runs, metric) for title, runs in budgets.items() if runs]


def _panel(title: str, runs: Mapping[str, Sequence[Run]], metric: str) -> Panel:
    scores = {arm: [named_test(run)[metric] for run in same] for arm, same in runs.items()}
    return Panel(title, scores, {arm: float(np.mean(same)) for arm, same in scores.items()})


def draw(comparison: Comparison) -> go.Figure:
    """Draw one panel per budget, one column per arm; a dash is the mean over seeds."""
    metric, shown = panels(comparison)
    figure = make_subplots(
        rows=1, cols=len(shown), shared_yaxes=True, subplot_titles=[one.title for one in shown]
    )
    for column, panel in enumerate(shown, start=1):
        arms = [arm for arm, scores in panel.scores.items() for _ in scores]
        values = [score for scores in panel.scores.values() for score in scores]
        figure.add_scatter(
            x=arms,
            y=values,
            mode="markers",
            name="one seed",
            marker={"color": COLOURS[0], "opacity": 0.6},
            showlegend=column == 1,
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=list(panel.means),
            y=list(panel.means.values()),
            mode="markers",
            name="mean",
            marker={
                "color": BEST,
                "symbol": "line-ew",
                "size": 24,
                "line": {"color": BEST, "width": 3},
            },
            showlegend=column == 1,
            row=1,
            col=column,
        )
    everything = np.array([s for one in shown for same in one.scores.values() for s in same])
    figure.update_yaxes(type="log" if helps_log(everything) else "linear")
    figure.update_yaxes(title_text=plain(metric), row=1, col=1)
    return figure.update_layout(title=plain(comparison.name))
