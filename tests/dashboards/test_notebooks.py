"""The notebooks run from top to bottom, and show what they promise."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from optuna_esgd.visualization.figures import FIGURES

NOTEBOOKS = Path(__file__).parents[2] / "dashboards"


def run_notebook(path: Path) -> list[object]:
    """Execute the code cells; what each cell shows, in order."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "Clear the outputs before you commit."
        shown.append(_run_cell("".join(cell["source"]), names))
    return shown


def _run_cell(source: str, names: dict[str, Any]) -> object:
    """Like a notebook: the value of a last expression is what the cell shows."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<cell>", "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


@pytest.mark.slow
def test_figures_notebook_shows_every_figure() -> None:
    numbers, *shown, names = run_notebook(NOTEBOOKS / "figures.ipynb")
    assert getattr(numbers, "n_individuals", 0) == 192
    assert names == list(FIGURES)
    assert all(isinstance(figure, go.Figure) and figure.data for figure in shown)
    titles = {figure.layout.title.text.split(" (")[0] for figure in shown}
    assert len(titles) == len(shown) == len(FIGURES)
