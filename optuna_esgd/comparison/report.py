"""A comparison as tables for people, and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from optuna_esgd.comparison.arms import REFERENCE
from optuna_esgd.comparison.compare import Comparison
from optuna_esgd.comparison.runs import FORWARDS_PER_GRADIENT
from optuna_esgd.comparison.summaries import Score, Summary, summarise

EQUAL_GRADIENTS = "equal gradient evaluations"
EQUAL_COST = "equal total cost"
_COUNTS = {
    "n_epochs": "epochs",
    "n_gradients": "gradients",
    "n_forwards": "forwards",
    "n_evaluations": "evaluations",
    "cost": "cost",
}


def tables(comparison: Comparison) -> list[Table]:
    """Draw scores and costs at equal gradients, then both at equal total cost.

    Scores are mean ± standard error over seeds; p is of the one-sided paired test that the
    reference is better than the arm, see ``statistics.permutation_test``.
    """
    drawn = []
    for budget, runs in (
        (EQUAL_GRADIENTS, comparison.equal_gradients),
        (EQUAL_COST, comparison.equal_cost),
    ):
        summaries = summarise(runs)
        title = escape(f"{comparison.name}: {budget}")
        caption = f"Means over seeds ({len(runs[REFERENCE])}), lower is better"
        drawn += [_scores(summaries, title, caption), _costs(summaries)]
    return drawn


def _scores(summaries: Sequence[Summary], title: str, caption: str) -> Table:
    table = Table(title=title, caption=f"{caption}. p: {REFERENCE} is no better")
    table.add_column("arm")
    for metric in summaries[0].scores:
        table.add_column(escape(metric), justify="right")
    for one in summaries:
        table.add_row(one.arm, *(_text(score) for score in one.scores.values()))
    return table


def _costs(summaries: Sequence[Summary]) -> Table:
    table = Table(
        caption="Spent per seed. Epochs: of each individual. Cost: in forward passes of one "
        f"mini-batch, {FORWARDS_PER_GRADIENT} for a gradient"
    )
    table.add_column("arm")
    for title in (*_COUNTS.values(), "seconds"):
        table.add_column(title, justify="right")
    for one in summaries:
        counts = [f"{one.spent[name]:,.0f}" for name in _COUNTS]
        table.add_row(one.arm, *counts, f"{one.spent['seconds']:.1f}")
    return table


def _text(score: Score) -> str:
    error = "" if math.isnan(score.standard_error) else f" ± {score.standard_error:.2g}"
    p = "" if score.p is None else f"\np = {score.p:.3f}"
    return f"{score.mean:.4g}{error}{p}"


def write_json(comparison: Comparison, path: Path) -> None:
    """Write all runs and their summaries; what is not a finite number is null."""
    document = {
        "name": comparison.name,
        **{
            budget: {
                "runs": [asdict(run) for same in runs.values() for run in same],
                "summaries": [
                    {
                        "arm": one.arm,
                        "scores": {name: score._asdict() for name, score in one.scores.items()},
                        "spent": one.spent,
                    }
                    for one in summarise(runs)
                ],
            }
            for budget, runs in (
                ("equal_gradients", comparison.equal_gradients),
                ("equal_cost", comparison.equal_cost),
            )
        },
    }
    path.write_text(json.dumps(_finite(document), indent=1, allow_nan=False) + "\n", "utf-8")


def _finite(value: Any) -> Any:
    """The same, with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
