"""How hyperparameters move over the generations: the schedule that was discovered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Value
from optuna_esgd.visualization.descent import main_line
from optuna_esgd.visualization.history import Booleans, Floats, History, Integers, read_history
from optuna_esgd.visualization.style import (
    BEST,
    GREY,
    MOST_IN_DETAIL,
    Style,
    count_generations,
    fade,
    helps_log,
    lay_out,
    plain,
    small,
    species_styles,
)

# Whoever wants to see more names them.
_MOST_ROWS = 6
_ROW_PIXELS = 150


class Row(NamedTuple):
    """One hyperparameter, k individuals that have it.

    Attributes:
        name: As the user, or the species, calls it.
        choices: What the values count from 0; empty for numbers.
        is_log: Whether it is searched on a log scale, or, where that is not known, spread like it.
        generation: (k,)
        value: (k,)
        trial: (k,) -1 where there is none.
        species_index: (k,) into the styles.
        is_elite: (k,) whether among the m best of its generation.
        is_drawn: (k,) whether it gets a mark: everyone, or the few best of a large population.
        on_line: (k,) whether on the best's main line.
    """

    name: str
    choices: tuple[str, ...]
    is_log: bool
    generation: Integers
    value: Floats
    trial: Integers
    species_index: Integers
    is_elite: Booleans
    is_drawn: Booleans
    on_line: Booleans


class HyperparameterSchedule(NamedTuple):
    """What the figure shows: rows, and the styles of the species."""

    rows: tuple[Row, ...]
    styles: tuple[Style, ...]
    n_generations: int
    is_detailed: bool


def plot_hyperparameter_schedule(
    study: optuna.Study, params: Sequence[str] | None = None, *, store: str | None = None
) -> go.Figure:
    """Plot hyperparameters by generation, one row each; species share rows of the same name.

    Large marks are elites, small ones the others; the line follows the best individual back to
    its founder. Of large populations the few best of each generation are drawn, and the middle
    half of all as a band.

    Args:
        study: One whose population trains weights.
        params: Which ones; the six that most individuals have if None.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
        ConfigurationError: No finished individual has one of these hyperparameters.
    """
    history = read_history(study, store=store)
    return draw_hyperparameter_schedule(hyperparameter_schedule(history, params))


def hyperparameter_schedule(
    history: History, params: Sequence[str] | None = None
) -> HyperparameterSchedule:
    """Collect the values of each hyperparameter."""
    known = Counter(name for one in history.hyperparameters for name in one)
    params = [params] if isinstance(params, str) else params
    if params is None:
        params = [name for name, _ in known.most_common(_MOST_ROWS)]
    elif missing := [name for name in params if name not in known]:
        raise ConfigurationError(
            f"No finished individual has a hyperparameter {missing[0]!r}; there are "
            f"{sorted(known)}."
        )
    is_on_line = np.zeros(history.n_individuals, dtype=np.bool_)
    if history.best is not None:
        is_on_line[main_line(history, history.best)] = True
    return HyperparameterSchedule(
        rows=tuple(_row(history, name, is_on_line) for name in params),
        styles=species_styles(history),
        n_generations=history.n_generations,
        is_detailed=history.n_individuals <= MOST_IN_DETAIL,
    )


def draw_hyperparameter_schedule(shown: HyperparameterSchedule) -> go.Figure:
    """Draw one subplot per hyperparameter."""
    n_rows = max(len(shown.rows), 1)
    figure = make_subplots(rows=n_rows, cols=1, shared_xaxes=True, vertical_spacing=0.15 / n_rows)
    named: set[str] = set()
    for at, row in enumerate(shown.rows, start=1):
        _draw_dots(figure, row, at, shown, named)
        if not shown.is_detailed and not row.choices:
            _draw_band(figure, row, at)
        _draw_line(figure, row, at)
        figure.update_yaxes(title_text=plain(row.name), row=at, col=1)
        if row.is_log:
            figure.update_yaxes(type="log", row=at, col=1)
        if row.choices:
            ticks = {"tickvals": list(range(len(row.choices))), "ticktext": list(row.choices)}
            figure.update_yaxes(**ticks, row=at, col=1)
    count_generations(figure, shown.n_generations, row=n_rows)
    figure.update_layout(height=max(450, _ROW_PIXELS * n_rows + 150))
    return lay_out(figure, "Hyperparameter Schedule", is_empty=shown.n_generations == 0)


def _row(history: History, name: str, is_on_line: Booleans) -> Row:
    n_drawn = history.population_size
    if history.n_individuals > MOST_IN_DETAIL:
        n_drawn = max(1, MOST_IN_DETAIL // history.n_generations)
    at = np.array([k for k, one in enumerate(history.hyperparameters) if name in one])
    given = [history.hyperparameters[row][name] for row in at]
    choices: tuple[str, ...] = ()
    if all(isinstance(one, Real) and not isinstance(one, bool) for one in given):
        value = np.array(given, dtype=np.float64)
    else:
        names = sorted({_choice(one) for one in given})
        value = np.array([names.index(_choice(one)) for one in given], dtype=np.float64)
        choices = tuple(names)
    return Row(
        name=name,
        choices=choices,
        is_log=not choices and _is_log(history.is_log.get(name), value),
        generation=history.generation[at],
        value=value,
        trial=history.trial[at],
        species_index=history.species_index[at],
        is_elite=history.is_elite[at],
        is_drawn=history.rank[at] < n_drawn,
        on_line=is_on_line[at],
    )


def _is_log(is_declared: bool | None, value: Floats) -> bool:
    if is_declared is None:
        return helps_log(value, tails=0.05)
    return is_declared and bool(np.all(value > 0))  # one name may have several ranges


def _choice(value: Value) -> str:
    return plain(repr(value) if value is None or isinstance(value, bool) else value)


def _draw_dots(
    figure: go.Figure, row: Row, at: int, shown: HyperparameterSchedule, named: set[str]
) -> None:
    """Draw individuals by species; each species is in the legend once."""
    for index, style in enumerate(shown.styles):
        mine = (row.species_index == index) & row.is_drawn
        if not mine.any():
            continue
        elite = row.is_elite[mine]
        figure.add_scatter(
            x=small(row.generation[mine]),
            y=small(row.value[mine]),
            customdata=small(row.trial[mine]),
            mode="markers",
            marker={
                "color": style.colour,
                "symbol": style.symbol,
                "size": np.where(elite, np.int8(8), np.int8(4)) if shown.is_detailed else 3,
                "opacity": np.where(elite, np.float32(0.85), np.float32(0.4)),
                "line": {"width": int(shown.is_detailed), "color": "white"},
            },
            name=style.name,
            legendgroup=style.name,
            showlegend=style.name not in named,
            hovertemplate="Generation %{x}, trial %{customdata}<br>%{y}"
            "<extra>%{fullData.name}</extra>",
            row=at,
            col=1,
        )
        named.add(style.name)


def _draw_line(figure: go.Figure, row: Row, at: int) -> None:
    """Follow the best's main line, where it has this hyperparameter."""
    x = np.arange(row.generation.max(initial=-1) + 1)
    y = np.full(len(x), np.nan)
    y[row.generation[row.on_line]] = row.value[row.on_line]
    figure.add_scatter(
        x=small(x),
        y=small(y),
        mode="lines",
        line={"color": BEST, "width": 2.5},
        name="Main line of the best",
        legendgroup="line",
        showlegend=at == 1,
        hoverinfo="skip",
        row=at,
        col=1,
    )


def _draw_band(figure: go.Figure, row: Row, at: int) -> None:
    """The middle half of everybody who has it."""
    generations = np.unique(row.generation)
    quartiles = np.array(
        [np.quantile(row.value[row.generation == one], (0.75, 0.25)) for one in generations]
    )
    for quartile, fill in ((0, None), (1, "tonexty")):
        figure.add_scatter(
            x=small(generations),
            y=small(quartiles[:, quartile]),
            mode="lines",
            line={"width": 0},
            fill=fill,
            fillcolor=fade(GREY, 0.3),
            name="Middle half",
            legendgroup="band",
            showlegend=at == 1 and quartile == 1,
            hoverinfo="skip",
            row=at,
            col=1,
        )
