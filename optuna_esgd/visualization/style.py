"""How all figures look: one colour per species everywhere, names that cannot be markup.

Colours are Okabe and Ito's, which stay apart under colour blindness; vermilion is kept for the
best. Whatever is neutral is half transparent grey, which can be seen on white and on black.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from optuna_esgd.visualization.history import History

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
BEST = "#D55E00"
GREY = "#808080"
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "pentagon",
    "star-square",
    "triangle-down",
    "bowtie",
    "hourglass",
    "hexagram",
    "diamond-tall",
    "star-diamond",
)
PATTERNS = ("", "/", "x", ".", "\\", "+", "-", "|")

# Above this many individuals, figures show quantiles or survivors instead of everybody.
MOST_IN_DETAIL = 2000
_LONGEST_NAME = 40


class Style(NamedTuple):
    """How one species, or founder, is drawn."""

    name: str
    colour: str
    symbol: str
    pattern: str


def species_styles(history: History) -> tuple[Style, ...]:
    """The styles of a history's species, in their order."""
    return styles([plain(name) or "(no name)" for name in history.species])


def styles(names: Sequence[str]) -> tuple[Style, ...]:
    """A style per name; beyond five names lighter, then darker colours, and other symbols."""
    return tuple(
        Style(
            name,
            _shade(COLOURS[at % len(COLOURS)], at // len(COLOURS)),
            SYMBOLS[at % len(SYMBOLS)],
            PATTERNS[at % len(PATTERNS)],
        )
        for at, name in enumerate(names)
    )


def plain(name: object) -> str:
    """A name as text for plotly, which would take it for HTML, TeX or a template otherwise."""
    text = " ".join(str(name).split())
    if len(text) > _LONGEST_NAME:
        text = text[: _LONGEST_NAME - 1] + "…"
    return html.escape(text, quote=False).replace("$", "&#36;").replace("%", "&#37;")


def fade(colour: str, opacity: float) -> str:
    """A colour that lets what is below it through."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def small(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same numbers in fewer bytes: whole ones exactly, others to seven digits."""
    if numbers.dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):
            narrow = numbers.astype(np.float32)
        is_lost = (np.isinf(narrow) != np.isinf(numbers)) | ((narrow == 0) != (numbers == 0))
        return numbers if is_lost.any() else narrow
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return numbers.astype(kind)
    return numbers.astype(np.float64)


def helps_log(numbers: npt.NDArray[Any], *, tails: float = 0.0) -> bool:
    """Whether numbers are positive and spread over so much that a log axis shows more.

    Args:
        numbers: Those that are not finite do not count.
        tails: Which part of them, on either side, does not make the spread.
    """
    finite = numbers[np.isfinite(numbers)]
    if not len(finite) or finite.min() <= 0:
        return False
    low, high = np.quantile(finite, (tails, 1 - tails), method="nearest")
    return bool(high / 30 > low)


def widen(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """An area over a single generation: it would have no width."""
    if len(x) != 1:
        return x, y
    return np.array([x[0] - 0.25, x[0] + 0.25]), np.repeat(y, 2)


def lay_out(figure: go.Figure, title: str, *, is_empty: bool, **layout: Any) -> go.Figure:
    """Give a figure its title, its legend below, and words where there is nothing to see."""
    figure.update_layout(
        # Below the buttons, which else lie over it on narrow pages.
        title={"text": title, "yref": "paper", "y": 1, "yanchor": "bottom", "pad": {"b": 12}},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "traceorder": "normal",
            "itemsizing": "constant",
        },
        margin={"t": 70, "l": 60, "r": 30},
        **layout,
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    figure.for_each_yaxis(lambda one: one.update(exponentformat=one.exponentformat or "power"))
    if is_empty:
        figure.add_annotation(
            text="No individual has finished yet.",
            xref="paper",
            yref="paper",
            x=0.5,
            y=0.5,
            showarrow=False,
        )
    return figure


def count_generations(figure: go.Figure, n_generations: int, *, row: int | None = None) -> None:
    """Make x axes whole generations, and name that of one row (of a figure that has rows)."""
    figure.update_xaxes(range=[-0.5, max(n_generations, 1) - 0.5], tickformat="d")
    if n_generations <= 8:
        figure.update_xaxes(dtick=1)
    figure.update_xaxes(title_text="Generation", row=row, col=row and 1)


def _shade(colour: str, step: int) -> str:
    """The colour itself, then lighter, then darker ones."""
    if step == 0:
        return colour
    target, part = (255, 0.55) if step % 2 else (0, 0.45)
    channels = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(c + (target - c) * part):02X}" for c in channels)
