"""Where the examples here draw: an HTML file, named on the command line or after the example."""

from __future__ import annotations

import argparse
from pathlib import Path

import plotly.graph_objects as go


def figure_path(default: str, description: str | None) -> Path:
    """The file given by ``--figure``, its folder made if need be."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--figure", type=Path, default=Path("demo") / default)
    path: Path = parser.parse_args().figure
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_lines(
    path: Path,
    lines: dict[str, list[float]],
    *,
    title: str,
    x: str,
    y: str,
    first: int = 0,
    log: bool = False,
) -> None:
    """Draw lines over 0, 1, 2, ... (or from ``first`` on) and say where."""
    figure = go.Figure()
    for name, values in lines.items():
        steps = list(range(first, first + len(values)))
        figure.add_scatter(x=steps, y=values, name=name, mode="lines")
    figure.update_layout(
        title=title, xaxis_title=x, yaxis_title=y, yaxis_type="log" if log else "linear"
    )
    figure.write_html(path, include_plotlyjs="directory")
    print(f"figure: {path}")
