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

from optuna_esgd.comparison.arms import ARMS, REFERENCE
from optuna_esgd.comparison.compare import compare
from optuna_esgd.comparison.ledger import BUDGETS, Budget, Comparison
from optuna_esgd.comparison.named import NamedBenchmark
from optuna_esgd.comparison.report import read_json, write_json
from optuna_esgd.comparison.runs import Run
from optuna_esgd.comparison.statistics import permutation_test
from optuna_esgd.comparison.summaries import VALIDATION, Score, summarise
from optuna_esgd.visualization.style import BEST, COLOURS, GREY
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
    draw(found).write_html(folder / "quality.html", include_plotlyjs=True)
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
    """Per task and arm: the test score over that of esgd, seed by seed; the mean of logarithms."""
    figure = go.Figure()
    arms = [arm for arm in ARMS if arm != REFERENCE]
    for number, arm in enumerate(arms):
        tasks, ratios, errors = [], [], []
        for task, comparison in found.items():
            runs = comparison.equal_gradients
            pairs = list(zip(*_pairs(runs, arm, None), strict=True)) if arm in runs else []
            logs = [math.log(theirs / ours) for ours, theirs in pairs if theirs > 0 and ours > 0]
            if len(logs) == len(pairs) and len(logs) > 1 and np.isfinite(logs).all():
                tasks.append(task)
                ratios.append(math.exp(float(np.mean(logs))))
                errors.append(float(np.std(logs, ddof=1)) / math.sqrt(len(logs)))
        figure.add_scatter(
            x=tasks,
            y=ratios,
            name=arm,
            mode="markers",
            marker={"color": COLOURS[number % len(COLOURS)] if number else BEST, "size": 9},
            error_y={
                "array": [r * (math.exp(e) - 1) for r, e in zip(ratios, errors, strict=True)],
                "arrayminus": [
                    r * (1 - math.exp(-e)) for r, e in zip(ratios, errors, strict=True)
                ],
            },
        )
    figure.add_hline(y=1, line={"color": GREY, "dash": "dash"})
    figure.update_layout(title="Test Score over That of ESGD (above 1: ESGD Is Better)")
    figure.update_layout(scattermode="group")
    return figure.update_yaxes(type="log", title_text="ratio, ± one standard error")


def _headline(run: Run) -> float:
    return next(iter(run.test.values()))


if __name__ == "__main__":
    main()
