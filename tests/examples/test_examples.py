"""The examples run as a user would run them, and print what they promise."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optuna_esgd.species import named_species

# Shells start background jobs with SIGINT ignored, and children inherit it.
INTERRUPTIBLE = """
import pathlib, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "COLUMNS": "140"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found.group(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "pattern"),
    [
        ("digits", r"validation loss ([\d.]+)"),
        ("tabular", r"validation loss ([\d.]+)"),
        ("objective", r"best validation loss ([\d.]+)"),
        ("own_loop", r"validation error ([\d.]+)"),
    ],
)
def test_with_us_the_result_is_better_than_plain(pair: str, pattern: str) -> None:
    plain = number(pattern, run(f"{pair}_plain.py"))
    with_us = number(pattern, run(f"{pair}_esgd.py"))
    assert with_us < plain


@pytest.mark.slow
def test_demo_can_be_interrupted_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = [str(EXAMPLES / "digits_demo.py"), "--folder", str(tmp_path)]
    first = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    database = tmp_path / "esgd.db"
    deadline = time.monotonic() + 120
    while _n_trials(database, "COMPLETE") < 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    n_before = _n_trials(database, "COMPLETE")
    # Interrupted after its individual was done and before Optuna was told, or before that: such a
    # trial fails one lease later, and in the first case another one shows its individual.
    n_untold = _n_trials(database, "RUNNING")
    assert 20 <= n_before < 128, output
    assert n_untold <= 1
    assert "Interrupted" in output
    assert "Traceback" not in output
    text = run("digits_demo.py", "--folder", str(tmp_path))
    left = int(number(r"digits: (\d+) of 128", text))
    assert left == 128 - n_before
    assert "Genealogy" in text
    assert "optuna-esgd dashboard" in text
    n_missing = 128 - _n_trials(database, "COMPLETE")
    assert n_missing <= n_untold
    again = run("digits_demo.py", "--folder", str(tmp_path))
    assert f"digits: {n_missing} of 128" in again


def _n_trials(database: Path, state: str) -> int:
    """Trials of the first study that are in this state, 0 while there is none."""
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            first = "study_id = (SELECT MIN(study_id) FROM studies)"
            counted = f"SELECT COUNT(*) FROM trials WHERE state = ? AND {first}"
            rows = connection.execute(counted, [state])
            return int(rows.fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        if "connection" in locals():
            connection.close()


@pytest.mark.parametrize(
    ("script", "first"),
    [("digits_plain.py", "mlp"), ("tabular_esgd.py", "diabetes"), ("toys.py", "plane")],
)
def test_a_wrong_name_is_answered_with_the_right_ones(script: str, first: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, "nonsense"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(f"invalid choice: 'nonsense' .choose from '?{first}", done.stderr)


def run_drawing(script: str, folder: Path) -> str:
    """Run an example that draws a figure, and check that it did."""
    figure = folder / "figure.html"
    text = run(script, "--figure", str(figure))
    assert "Plotly.newPlot" in figure.read_text(encoding="utf-8")
    return text


@pytest.mark.slow
def test_momentum_escapes_and_annealing_restores_the_floor(tmp_path: Path) -> None:
    text = run_drawing("momentum_escape.py", tmp_path)
    slow, fast = number(r"escape: (\d+)", text), number(r"without momentum, (\d+)", text)
    assert fast < slow / 5
    low, high, annealed = (
        number(rf"{words}", text)
        for words in (r"end: ([\d.]+)", r"without, ([\d.]+) with,", r"([\d.]+) annealed")
    )
    assert annealed == pytest.approx(number(r"theory: ([\d.]+)", text), rel=0.1)
    assert low == pytest.approx(number(r"theory: ([\d.]+)", text), rel=0.1)
    assert high > 8 * annealed


@pytest.mark.slow
def test_a_spiking_population_learns_with_the_surrogate_only(tmp_path: Path) -> None:
    text = run_drawing("spiking_population.py", tmp_path)
    assert number(r"accuracy: ([\d.]+)", text) < 0.65
    assert number(r"gradient, ([\d.]+) with the surrogate", text) > 0.8


@pytest.mark.slow
def test_oddball_sampling_moves_the_location_and_weights_move_it_back(tmp_path: Path) -> None:
    text = run_drawing("oddball_sampling.py", tmp_path)
    assert number(r"location: ([\d.]+) by error", text) == pytest.approx(0.366, abs=0.005)
    assert number(r"location: ([\d.]+) with importance", text) == pytest.approx(0.25, abs=0.005)
    evenly, by_error = (
        number(rf"digits, {name}: .* rare class ([\d.]+)%", text)
        for name in ("evenly", "by error")
    )
    assert by_error < evenly


@pytest.mark.slow
def test_a_frozen_path_speeds_up_the_next_task(tmp_path: Path) -> None:
    text = run_drawing("pathnet_transfer.py", tmp_path)
    scratch = number(r"mean generations: ([\d.]+) from scratch", text)
    assert number(r"from scratch, ([\d.]+) after", text.split("mean generations")[1]) < scratch


@pytest.mark.slow
def test_mutations_that_do_no_harm_are_gradient_descent(tmp_path: Path) -> None:
    text = run_drawing("mutation_is_descent.py", tmp_path)
    assert number(r"mean loss: ([\d.]+)%", text) < 5
    assert number(r"([-\de.]+) of their mean", text) < number(r"([-\de.]+) of one run", text) / 2
    assert number(r"([\d.]+) by descent", text) < number(r"loss: ([\d.]+) at first", text) / 2


@pytest.mark.slow
def test_entropy_sgd_finds_the_wide_valley(tmp_path: Path) -> None:
    text = run_drawing("wide_valley.py", tmp_path)
    assert number(r"valley: ([\d.]+) with SGD", text) < 0.1
    assert number(r"SGD, ([\d.]+) with Entropy-SGD", text) > 0.9
    errors = [float(found) for found in re.findall(r"test error ([\d.]+)%", text)]
    assert len(errors) == 2
    assert max(errors) < 12


@pytest.mark.slow
def test_every_species_takes_part_and_the_better_ones_spread(tmp_path: Path) -> None:
    text = run_drawing("all_species.py", tmp_path)
    assert number(r"species: (\d+) in the library", text) == len(named_species())
    assert number(r"(\d+) in the first generation", text) == len(named_species())
    before, after = (
        number(rf"leader: {words}", text) for words in (r".* from (\d+)", r".* to (\d+)")
    )
    assert after > before
    assert number(r"test error of the best network: ([\d.]+)%", text) < 50
