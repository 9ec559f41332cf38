"""How fitness spreads, and falls, over the generations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_esgd.evolution.fitness import mean_of_best
from optuna_esgd.visualization.history import Floats, History, Integers, read_history
from optuna_esgd.visualization.style import (
    BEST,
    COLOURS,
    count_generations,
    fade,
    helps_log,
    lay_out,
    small,
    widen,
)

# A gap below this part of the best is not told apart from none.
_SMALLEST_GAP = 1e-4


class Spread(NamedTuple):
    """(G,) each; NaN where nobody in a generation has a value.

    Attributes:
        best: The best individual.
        upper: A quarter is better.
        median: Half are.
        lower: Three quarters are.
        worst: The worst that has not diverged.
        elite_mean: Mean of the m best, of whole generations only: it never gets worse (Cui et
            al. 2018, Theorem 1).
    """

    best: Floats
    upper: Floats
    median: Floats
    lower: Floats
    worst: Floats
    elite_mean: Floats


class FitnessByGeneration(NamedTuple):
    """What the figure shows.

    Attributes:
        values: In the study's direction.
        best_so_far: (G,) likewise.
        gaps: How much worse than the best so far, 0 or more.
        gaps_are_relative: Whether gaps are parts of the best value (else it passes zero).
        n_diverged: (G,)
        n_elites: m.
    """

    values: Spread
    best_so_far: Floats
    gaps: Spread
    gaps_are_relative: bool
    n_diverged: Integers
    n_elites: int


def plot_fitness_by_generation(study: optuna.Study, *, store: str | None = None) -> go.Figure:
    """Plot how the population's values spread per generation, and their gap to the best.

    Above: all individuals (pale), the middle half (darker), median, mean of the elite (dashed;
    never gets worse), best so far. Below: the same as a gap to the best so far, which can be
    read when all values have come close. Diverged individuals are left out and counted.

    Args:
        study: One whose population trains weights.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
    """
    return draw_fitness_by_generation(fitness_by_generation(read_history(study, store=store)))


def fitness_by_generation(history: History) -> FitnessByGeneration:
    """Summarise each generation."""
    n = history.n_generations
    spread = np.full((len(Spread._fields), n), np.nan)
    n_diverged = np.zeros(n, dtype=np.int64)
    for generation in range(n):
        fitness = history.fitness[history.rows(generation)]
        finite = fitness[np.isfinite(fitness)]
        n_diverged[generation] = len(fitness) - len(finite)
        if len(finite):
            with np.errstate(over="ignore", invalid="ignore"):
                spread[:5, generation] = np.quantile(finite, (0, 0.25, 0.5, 0.75, 1))
        if len(fitness) >= history.population_size:
            spread[5, generation] = mean_of_best(fitness, history.n_elites)[-1]
    spread[~np.isfinite(spread)] = np.nan
    best = np.fmin.accumulate(spread[0]) if n else spread[0]
    relative = bool(np.all(best > 0) or np.all(best < 0))
    with np.errstate(over="ignore"):
        gaps = (spread - best) / np.abs(best) if relative else spread - best
    gaps[~np.isfinite(gaps)] = np.nan
    return FitnessByGeneration(
        values=Spread(*history.shown(spread)),
        best_so_far=history.shown(best),
        gaps=Spread(*np.maximum(gaps, 0)),
        gaps_are_relative=relative,
        n_diverged=n_diverged,
        n_elites=history.n_elites,
    )


def draw_fitness_by_generation(shown: FitnessByGeneration) -> go.Figure:
    """Draw both rows."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    _draw_spread(figure, shown.values, shown, row=1)
    x = np.arange(len(shown.best_so_far))
    best = {"color": BEST, "width": 2}
    figure.add_scatter(
        x=small(x),
        y=small(shown.best_so_far),
        mode=_mode(x),
        line=best,
        marker={"color": BEST},
        name="Best so far",
        row=1,
        col=1,
    )
    scale = 100.0 if shown.gaps_are_relative else 1.0
    gaps, is_log = _for_log_axis(shown.gaps, _SMALLEST_GAP if scale > 1 else 0.0)
    with np.errstate(over="ignore"):
        gaps = Spread(*(scale * one for one in gaps))
    _draw_spread(figure, gaps, shown, row=2)
    everything = np.concatenate([shown.values.best, shown.values.worst, shown.best_so_far])
    figure.update_yaxes(title_text="Value", row=1, col=1)
    if helps_log(everything):
        figure.update_yaxes(type="log", row=1, col=1)
    figure.update_yaxes(title_text="Gap to Best", row=2, col=1)
    figure.update_yaxes(ticksuffix="%" if scale > 1 else "", row=2, col=1)
    if is_log:
        figure.update_yaxes(type="log", dtick=1, exponentformat="none", row=2, col=1)
    count_generations(figure, len(x), row=2)
    title = "Fitness by Generation"
    if n_diverged := int(shown.n_diverged.sum()):
        title += f" ({n_diverged} Diverged)"
    return lay_out(figure, title, is_empty=len(x) == 0, hovermode="x unified")


def _draw_spread(
    figure: go.Figure, spread: Spread, shown: FitnessByGeneration, *, row: int
) -> None:
    """Two bands, the median and the elite's mean."""
    known = np.isfinite(spread.median)
    x = small(np.flatnonzero(known))
    legend = {"showlegend": row == 1}
    colour = COLOURS[0]
    for one, other, opacity, name in (
        (spread.worst, spread.best, 0.15, "All"),
        (spread.lower, spread.upper, 0.3, "Middle half"),
    ):
        edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": name}
        wide, below = widen(x, small(one[known]))
        _, above = widen(x, small(other[known]))
        figure.add_scatter(x=wide, y=below, showlegend=False, row=row, col=1, **edge)
        figure.add_scatter(
            x=wide,
            y=above,
            name=name,
            fill="tonexty",
            fillcolor=fade(colour, opacity),
            row=row,
            col=1,
            **edge,
            **legend,
        )
    for values, dash, name in (
        (spread.median, "solid", "Median"),
        (spread.elite_mean, "dash", f"Mean of the {shown.n_elites} best"),
    ):
        figure.add_scatter(
            x=x,
            y=small(values[known]),
            mode=_mode(x),
            marker={"color": colour, "symbol": "circle" if dash == "solid" else "circle-open"},
            name=name,
            legendgroup=name,
            line={"color": colour, "dash": dash, "width": 2},
            row=row,
            col=1,
            **legend,
        )


def _mode(x: npt.NDArray[Any]) -> str:
    """A line through a single generation would not be seen."""
    return "lines" if len(x) > 1 else "markers"


def _for_log_axis(gaps: Spread, smallest: float) -> tuple[Spread, bool]:
    """Gaps with a floor where a log axis shows more; as they are where it does not."""
    lines = np.concatenate([gaps.median, gaps.elite_mean, gaps.worst])
    positive = lines[lines > 0]
    if not helps_log(positive):
        return gaps, False
    floor = max(float(positive.min()), smallest)
    return Spread(*(np.maximum(one, floor) for one in gaps)), True
