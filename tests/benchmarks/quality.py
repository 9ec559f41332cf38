"""How good ESGD is beside other methods, on every task of the suite.

``python -m tests.benchmarks.quality`` compares on one task after the other, the cheapest first,
and goes on where it was interrupted. Each task has a JSON file in ``results/quality/``; one table,
``quality.md``, and one figure, ``quality.html``, sum up what there is. ``--summary`` makes only
those. Seeds 100 and 101 chose the recipes, those from 200 on the default preset: report on others.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
import plotly.graph_objects as go
from playwright.sync_api import sync_playwright
from plotly.subplots import make_subplots

from dashboards.browsing import find_chromium, launch
from optuna_esgd.comparison.arms import ARMS, REFERENCE
from optuna_esgd.comparison.compare import compare
from optuna_esgd.comparison.ledger import BUDGETS, Budget, Comparison
from optuna_esgd.comparison.named import NamedBenchmark
from optuna_esgd.comparison.report import read_json, write_json
from optuna_esgd.comparison.runs import Run
from optuna_esgd.comparison.statistics import permutation_test
from optuna_esgd.comparison.summaries import VALIDATION, Score, summarise
from optuna_esgd.visualization.style import GREY, styles
from tests.benchmarks.harness import RESULTS, describe_machine

FOLDER = RESULTS / "quality"
EXAMPLES = Path(__file__).parents[2] / "examples"
# The cheapest first.
TASKS = (
    *("toys:plane", "toys:deceptive", "toys:triangle_wave"),
    *("tabular_esgd:wine", "tabular_esgd:diabetes", "tabular_esgd:breast_cancer"),
    *("digits_esgd:mlp", "digits_esgd:noisy_mlp", "digits_esgd:cnn", "digits_esgd:noisy_cnn"),
    *("speech_esgd:dnn", "speech_esgd:lstm", "language_esgd:transformer", "language_esgd:lstm"),
)
# Those it has to be better than.
RIVALS = ("pbt", "random", "tpe")
LEVEL = 0.05
_MOST_ERRORS = 8.0  # that the figure tells apart
# With fewer no p is below the level.
FEWEST_SEEDS = 5


def main() -> None:
    """Compare, or only sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of %(default)s")
    parser.add_argument("--arms", default=",".join(ARMS), help="some of %(default)s")
    parser.add_argument("--budgets", default="gradients", help="gradients, or gradients,cost")
    parser.add_argument("--seeds", type=int, default=10, help="0 to N - 1 (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--device", help="where to train (the first GPU, or the CPU)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the results (%(default)s)")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    parser.add_argument("--picture", type=Path, help="photograph the figure into this .png")
    parsed = parser.parse_args()
    parsed.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not parsed.summary:
        for task in parsed.tasks.split(","):
            run_task(
                task,
                parsed.folder,
                arms=parsed.arms.split(","),
                budgets=[budget for budget in BUDGETS if budget in parsed.budgets.split(",")],
                n_seeds=parsed.seeds,
                n_jobs=parsed.jobs,
                device=parsed.device,
            )
            sum_up(parsed.folder)
    print(sum_up(parsed.folder))
    if parsed.picture is not None:
        take_picture(parsed.folder / "quality.html", parsed.picture)


def run_task(
    task: str,
    folder: Path,
    *,
    arms: Sequence[str],
    budgets: Sequence[Budget],
    n_seeds: int,
    n_jobs: int,
    device: str | None,
) -> None:
    """Compare on one task, from where its file has got to."""
    path = folder / f"{task.replace(':', '_')}.json"
    machine = describe_machine()
    compare(
        NamedBenchmark(str(EXAMPLES / task.replace(":", ".py:"))),
        arms=arms,
        seeds=range(n_seeds),
        name=task,
        budgets=budgets,
        before=read_json(path, task) if path.exists() else None,
        n_jobs=n_jobs,
        device=device,
        on_run=lambda run: _say(task, run),
        on_progress=lambda comparison: write_json(comparison, path, machine=machine),
    )


def _say(task: str, run: Run) -> None:
    scores = f"validation {run.validation:.4g} in {run.seconds:.1f} s"
    print(f"{task} {run.arm} seed {run.seed}: {scores}", file=sys.stderr, flush=True)


def sum_up(folder: Path) -> str:
    """Write ``quality.md`` and ``quality.html`` of all tasks there are; the former's text."""
    found: dict[str, Comparison] = {}
    for task in TASKS:
        path = folder / f"{task.replace(':', '_')}.json"
        if path.exists():
            comparison = read_json(path, task)
            if REFERENCE in comparison.equal_gradients:
                found[task] = comparison
    text = markdown(found)
    (folder / "quality.md").write_text(text, encoding="utf-8")
    draw(found).write_html(
        folder / "quality.html", include_plotlyjs=True, config={"displayModeBar": False}
    )
    return text


def markdown(found: Mapping[str, Comparison]) -> str:
    """One table per budget: a row per task, a column per arm."""
    parts = []
    for title, index in (("equal gradients", 1), ("equal total cost", 2)):
        runs = {task: one[index] for task, one in found.items() if one[index].get(REFERENCE)}
        for metric in (VALIDATION, None):
            if runs:
                parts.append(_table(title, runs, metric))  # noqa: PERF401  (two loops deep)
    return "\n".join(parts)


def _table(title: str, found: Mapping[str, dict[str, list[Run]]], metric: str | None) -> str:
    arms = [arm for arm in ARMS if any(arm in runs for runs in found.values())]
    what = "validation fitness" if metric else "the first metric of the test set"
    lines = [
        f"### {what}, {title}",
        "",
        (
            "Mean ± standard error; lower is better; p: of the one-sided paired test that esgd is "
            "better than the arm. Bold: the best mean."
        ),
        "",
        "| task | seeds | " + " | ".join(arms) + " |",
        "|---|---|" + "---|" * len(arms),
    ]
    for task, runs in found.items():
        summaries = {one.arm: one for one in summarise(runs)}
        scores = {
            arm: (one.scores[metric] if metric else list(one.scores.values())[1])
            for arm, one in summaries.items()
        }
        best = min(score.mean for score in scores.values())
        seeds = min(one.n_seeds for one in summaries.values())
        cells = [_cell(scores[arm], best) if arm in scores else "" for arm in arms]
        lines.append(f"| {task} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _verdict(found, metric), ""])


def _cell(score: Score, best: float) -> str:
    mean = f"{score.mean:.4g}"
    text = f"**{mean}**" if score.mean == best else mean
    text += "" if math.isnan(score.standard_error) else f" ± {score.standard_error:.2g}"
    return text + ("" if score.p is None else f" (p {score.p:.3f})")


def _verdict(found: Mapping[str, dict[str, list[Run]]], metric: str | None) -> str:
    """On how many tasks nobody is better than esgd, and on how many it is better than rivals."""
    n_best, n_tasks, wins, counted = 0, 0, dict.fromkeys(RIVALS, 0), dict.fromkeys(RIVALS, 0)
    for runs in found.values():
        compared = {arm: _pairs(runs, arm, metric) for arm in runs if arm != REFERENCE}
        pairs = {arm: pair for arm, pair in compared.items() if len(pair[0]) >= FEWEST_SEEDS}
        if not pairs:
            continue
        n_tasks += 1
        n_best += all(permutation_test(b, a) >= LEVEL for a, b in pairs.values())
        for rival in RIVALS:
            if rival in pairs:
                counted[rival] += 1
                wins[rival] += permutation_test(*pairs[rival]) < LEVEL
    better = ", ".join(f"{rival} on {wins[rival]} of {counted[rival]}" for rival in RIVALS)
    return (
        f"No arm is better than esgd at p < {LEVEL} on {n_best} of {n_tasks} tasks. esgd is "
        f"better at p < {LEVEL} than {better}. Counted from {FEWEST_SEEDS} seeds on."
    )


def _pairs(
    runs: Mapping[str, Sequence[Run]], arm: str, metric: str | None
) -> tuple[list[float], list[float]]:
    """The reference's values and the arm's, of the seeds that both have."""

    def value(run: Run) -> float:
        return run.validation if metric else _headline(run)

    ours = {run.seed: value(run) for run in runs[REFERENCE]}
    theirs = {run.seed: value(run) for run in runs[arm] if run.seed in ours}
    return [ours[seed] for seed in theirs], list(theirs.values())


def draw(found: Mapping[str, Comparison]) -> go.Figure:
    """Per task and arm: the mean difference to esgd, seed by seed, in standard errors."""
    panels = {"Validation": VALIDATION, "Test": None}
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    looks = styles([arm for arm in ARMS if arm != REFERENCE])
    for row, (title, metric) in enumerate(panels.items(), start=1):
        for look in looks:
            differences = {
                task: _standard_errors(comparison.equal_gradients, look.name, metric)
                for task, comparison in found.items()
            }
            known = {task: value for task, value in differences.items() if value is not None}
            figure.add_scatter(
                x=list(known),
                y=[max(-_MOST_ERRORS, min(_MOST_ERRORS, value)) for value in known.values()],
                name=look.name,
                mode="markers",
                marker={"color": look.colour, "symbol": look.symbol, "size": 9},
                showlegend=row == 1,
                row=row,
                col=1,
            )
        figure.add_hline(y=0, line={"color": GREY, "dash": "dash"}, row=row, col=1)
        edge = 1.1 * _MOST_ERRORS
        figure.update_yaxes(title_text=title, range=[-edge, edge], row=row, col=1)
    figure.update_xaxes(
        categoryorder="array",
        categoryarray=list(found),
        tickvals=list(found),
        ticktext=[task.replace("_esgd", "") for task in found],
        tickangle=30,
    )
    return figure.update_layout(
        title=(
            "Standard Errors by Which an Arm Is Worse than ESGD, "
            f"{_MOST_ERRORS:g} Standing for More"
        ),
        scattermode="group",
        template="plotly_white",
    )


def _standard_errors(
    runs: Mapping[str, Sequence[Run]], arm: str, metric: str | None
) -> float | None:
    """The mean of the paired differences over its standard error; None of too few seeds."""
    if arm not in runs or REFERENCE not in runs:
        return None
    ours, theirs = _pairs(runs, arm, metric)
    differences = np.subtract(theirs, ours)
    if len(differences) < FEWEST_SEEDS or not np.isfinite(differences).all():
        return None
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    mean = float(differences.mean())
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


def take_picture(page: Path, picture: Path) -> None:
    """Photograph the figure with a Chromium, for places that show no HTML."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("There is no chromium on the path, and pictures are taken with one.")
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        shown = browser.new_page(viewport={"width": 1000, "height": 640})
        shown.goto(page.resolve().as_uri())
        shown.wait_for_selector(".main-svg")
        shown.screenshot(path=picture)
        browser.close()


def _headline(run: Run) -> float:
    return next(iter(run.test.values()))


if __name__ == "__main__":
    main()
