"""The table and the figure of the suite say what the runs say."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from optuna_esgd.comparison.ledger import Comparison
from optuna_esgd.comparison.report import write_json
from optuna_esgd.comparison.runs import Run
from tests.benchmarks.quality import TASKS, draw, run_task, sum_up


def run(arm: str, seed: int, score: float) -> Run:
    return Run(
        arm=arm,
        seed=seed,
        n_epochs=4,
        validation=score / 2,
        test={"loss": score, "error": 0.1},
        n_gradients=1,
        n_forwards=0,
        n_evaluations=1,
        cost=4,
        seconds=1.0,
    )


def made(name: str, **scores: float) -> Comparison:
    runs = {
        arm: [run(arm, seed, score + 0.01 * seed) for seed in range(6)]
        for arm, score in scores.items()
    }
    return Comparison(name, runs, {})


def test_the_table_counts_where_esgd_is_best(tmp_path: Path) -> None:
    wins = made(TASKS[3], esgd=1.0, pbt=2.0, tpe=1.0)
    loses = made(TASKS[4], esgd=2.0, pbt=1.0)
    for comparison in (wins, loses):
        write_json(comparison, tmp_path / f"{comparison.name.replace(':', '_')}.json")
    text = sum_up(tmp_path)
    assert text == (tmp_path / "quality.md").read_text("utf-8")
    assert f"| {TASKS[3]} | 6 | **1.025** ± 0.0076 | 2.025 ± 0.0076 (p 0.016) |" in text
    assert "on 1 of 2 tasks. esgd is better at p < 0.05 than pbt on 1 of 2" in text
    assert "tpe on 0 of 1" in text
    assert "equal total cost" not in text
    assert (tmp_path / "quality.html").exists()


def test_the_figure_shows_standard_errors() -> None:
    comparison = made(TASKS[3], esgd=1.0, pbt=2.0)
    comparison.equal_gradients["pbt"][0] = run("pbt", 0, 2.6)
    # Differences of test scores: 1.6 once and 1 five times, so 1.1 with a standard error of 0.1.
    figure = draw({TASKS[3]: comparison})
    validation, test = [trace for trace in figure.data if trace.name == "pbt"]
    assert list(validation.x) == list(test.x) == [TASKS[3]]
    assert test.y[0] == validation.y[0] == 8.0  # 11, which stands for more
    comparison.equal_gradients["pbt"][1] = run("pbt", 1, 0.0)
    _, test = [trace for trace in draw({TASKS[3]: comparison}).data if trace.name == "pbt"]
    differences = [1.6, -1.01, 1.0, 1.0, 1.0, 1.0]
    assert test.y[0] == pytest.approx(
        statistics.mean(differences) / (statistics.stdev(differences) / 6**0.5)
    )


@pytest.mark.slow
def test_a_task_of_the_suite_is_compared_and_not_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"arms": ["random"], "budgets": ["gradients"], "n_seeds": 1, "n_jobs": 1}
    for _ in range(2):
        run_task("toys:plane", tmp_path, **settings, device="cpu")
    assert capsys.readouterr().err.count("toys:plane random seed 0") == 1
    assert "toys:plane" in sum_up(tmp_path)
