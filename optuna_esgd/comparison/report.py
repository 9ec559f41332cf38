"""A comparison as tables for people, and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from optuna_esgd.comparison.arms import REFERENCE, settings_of_arm
from optuna_esgd.comparison.ledger import Comparison
from optuna_esgd.comparison.runs import FORWARDS_PER_GRADIENT, Run
from optuna_esgd.comparison.summaries import Score, Summary, summarise
from optuna_esgd.engine.configuration import ADDED_FIELDS
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.written_files import write_whole

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
        if not runs:
            continue
        summaries = summarise(runs)
        title = escape(f"{comparison.name}: {budget}")
        n_seeds = _seeds(len(runs[REFERENCE]))
        caption = f"Means over {n_seeds} where no other number is given, lower is better"
        drawn += [_scores(summaries, title, caption), _costs(summaries)]
    return drawn


def _scores(summaries: Sequence[Summary], title: str, caption: str) -> Table:
    table = Table(title=title, caption=f"{caption}. Small p: {REFERENCE} is better")
    table.add_column("arm")
    for metric in summaries[0].scores:
        table.add_column(escape(metric), justify="right")
    most = max(one.n_seeds for one in summaries)
    for one in summaries:
        fewer = "" if one.n_seeds == most else f" ({_seeds(one.n_seeds)})"
        table.add_row(one.arm + fewer, *(_text(score) for score in one.scores.values()))
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


def _seeds(number: int) -> str:
    return f"{number} seed" if number == 1 else f"{number} seeds"


def _text(score: Score) -> str:
    error = "" if math.isnan(score.standard_error) else f" ± {score.standard_error:.2g}"
    p = "" if score.p is None else f"\np = {score.p:.3f}"
    return f"{score.mean:.4g}{error}{p}"


def write_json(comparison: Comparison, path: Path, **more: Any) -> None:
    """Write all runs and their summaries; what is not a finite number is null.

    The file is replaced as a whole, so that whoever is interrupted leaves the one before.

    Args:
        comparison: Complete or not.
        path: The file.
        **more: What else the document says, e.g. the machine.
    """
    document = {
        "name": comparison.name,
        "arms": {arm: settings_of_arm(arm) for arm in comparison.equal_gradients},
        **more,
        **{
            budget: {
                "runs": [asdict(run) for same in runs.values() for run in same],
                "summaries": [
                    {
                        "arm": one.arm,
                        "scores": {name: score._asdict() for name, score in one.scores.items()},
                        "spent": one.spent,
                    }
                    for one in (summarise(runs) if REFERENCE in runs else [])
                ],
            }
            for budget, runs in (
                ("equal_gradients", comparison.equal_gradients),
                ("equal_cost", comparison.equal_cost),
            )
        },
    }
    text = json.dumps(_finite(document), indent=1, allow_nan=False)
    write_whole(path, [f"{text}\n".encode()])


def read_json(path: Path, name: str, benchmark: Mapping[str, Any] | None = None) -> Comparison:
    """Read what ``write_json`` wrote, to go on from there.

    Args:
        path: The file.
        name: What is compared on.
        benchmark: How that describes itself; compared as far as the file says it too.

    Raises:
        ConfigurationError: It is no such file, of something else, of a benchmark that was
            another one, or of arms that had other settings than they have now.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        found = Comparison(
            document["name"],
            *(
                _by_arm([_run(one) for one in document[budget]["runs"]])
                for budget in ("equal_gradients", "equal_cost")
            ),
        )
        arms, described = document["arms"], document.get("benchmark")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is no comparison: {error!r}. Use another file."
        ) from None
    if found.name != name:
        raise ConfigurationError(f"{path} compares on {found.name}, not on {name}.")
    before, now = described or {}, _as_read(benchmark) or {}
    changed = [key for key in now if key in before and before[key] != now[key]]
    if changed:
        raise ConfigurationError(
            f"{path} was made on a benchmark that differs in {', '.join(changed)}. Use another "
            "file."
        )
    for arm, settings in arms.items():
        now = _as_read(settings_of_arm(arm))
        # What older files do not name was as older studies had it.
        if {**{name: ADDED_FIELDS[name] for name in now.keys() & ADDED_FIELDS}, **settings} != now:
            raise ConfigurationError(
                f"{path} was made with other settings of the arm {arm}. Use another file."
            )
    return found


def read_description(path: Path) -> dict[str, Any]:
    """How the benchmark of a file that ``read_json`` takes described itself."""
    return dict(json.loads(path.read_text("utf-8")).get("benchmark") or {})


def _as_read(value: Any) -> Any:
    """The same, as a file gives it back."""
    return json.loads(json.dumps(value))


def _run(values: dict[str, Any]) -> Run:
    test = {name: math.nan if value is None else value for name, value in values["test"].items()}
    validation = math.inf if values["validation"] is None else values["validation"]
    return Run(**{**values, "test": test, "validation": validation})


def _by_arm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    return {
        arm: [run for run in runs if run.arm == arm] for arm in {run.arm: None for run in runs}
    }


def _finite(value: Any) -> Any:
    """The same, with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
