"""How a population is doing, in numbers and in a terminal."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import optuna
import pytest
from rich.console import Console

import optuna_esgd as esgd
from optuna_esgd.engine.actions import Stop
from optuna_esgd.engine.individual import SlotKey, Span
from optuna_esgd.errors import StudyError
from optuna_esgd.store.opening import open_results
from optuna_esgd.testing.examples import take
from optuna_esgd.worker.status import (
    _rate,
    duration,
    read_status,
    render,
    show_status,
    sparkline,
)
from tests.trainer.studies import make_study, make_task


def text_of(study: optuna.Study, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(render(read_status(study), width))
    return console.export_text()


def test_a_study_without_a_population_has_no_status() -> None:
    with pytest.raises(StudyError, match="no population"):
        read_status(make_study())


def test_before_anybody_has_finished() -> None:
    study = make_study(n_generations=3)
    esgd.ESGDTrainer(make_task()).open(study)
    status = read_status(study)
    assert (status.numbers.n_individuals, status.per_minute, status.seconds_left) == (
        0,
        None,
        None,
    )
    assert "0 (of 0 to 2)" in text_of(study)
    assert "0 free slots, nobody at work" in text_of(study)


def test_in_the_middle_of_a_run() -> None:
    study = make_study(n_generations=3, name="[red]digits")
    study.optimize(esgd.ESGDTrainer(make_task(), cohort_size=2), n_trials=8)
    population = open_results(study)
    loop = esgd.ESGDTrainer(make_task()).open(study)
    while population.facts().round or population.facts().generation < 2:
        loop.act(loop.decide())
    take(population, SlotKey(2, 0, 1))
    status = read_status(study)
    assert status.numbers.n_individuals == 8
    assert status.slots == {"free": 1, "claimed": 1}
    assert [one.work for one in status.workers] == ["trains individuals 2 to 3"]
    assert not status.workers[0].is_lost
    assert status.per_minute is not None
    assert status.seconds_left == pytest.approx(60 * 4 / status.per_minute)
    text = text_of(study)
    assert "[red]digits" in text
    assert "generation   1 (of 0 to 2)" in text
    assert "1 claimed, 1 free" in text
    assert "nobody" not in text
    assert re.search(r"best .*→", text)
    assert "somebody" in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("n_generations", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"n_offspring": 0}, {"asynchronous": True}])
def test_a_run_that_is_over_says_so(n_generations: int, settings: dict[str, Any]) -> None:
    study = make_study(n_generations=n_generations, **settings)
    loop = esgd.ESGDTrainer(make_task()).open(study)
    while loop.act(action := loop.decide()):
        is_over = read_status(study).is_over
        assert is_over == isinstance(loop.decide(), Stop), action
    assert "now          all generations have finished" in text_of(study)


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=4)
    show_status(study)
    assert "individuals  4" in capsys.readouterr().out


def test_the_rate_is_that_of_the_last_slots() -> None:
    def span(at: int, finished_at: float, round_: int = 0) -> Span:
        return Span(SlotKey(0, round_, at), (0, 1), "w", 0.0, finished_at)

    assert _rate([], 4) is None
    assert _rate([span(0, 10.0)], 4) is None
    # Two individuals in ten seconds; offspring and the time before do not count.
    assert _rate([span(0, 10.0), span(1, 20.0), span(2, 15.0, round_=1)], 4) == 12.0
    many = [span(at, 100.0 * at) for at in range(3)] + [
        span(3 + at, 201.0 + at) for at in range(50)
    ]
    assert _rate(many, 4) == pytest.approx(120.0)


@pytest.mark.parametrize(
    ("line", "width", "expected"),
    [
        ([0.0, 0.5, 1.0], 10, "▁▅█"),
        ([1.0, np.nan, 0.0], 10, "█ ▁"),
        ([2.0, 2.0], 10, "▁▁"),
        ([np.inf], 10, " "),
        (list(range(101)), 3, "▁▅█"),
    ],
)
def test_sparklines(line: list[float], width: int, expected: str) -> None:
    assert sparkline(np.array(line, dtype=float), width) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "0 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (90061, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_generation_that_was_planned_too_early_is_not_trained() -> None:
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=8)  # plans generation 2
    study.sampler = esgd.ESGDSampler(4, seed=1, n_epochs=2, n_generations=2)
    study.optimize(esgd.ESGDTrainer(make_task()))
    shown = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(shown) == 8
    assert read_status(study).is_over


@pytest.mark.parametrize(
    ("is_late", "n_generations"),
    [(True, 3), (False, 2)],  # who comes early says 1, and is found wrong later
)
@pytest.mark.parametrize("settings", [{}, {"asynchronous": True}])
def test_who_comes_for_fewer_generations_ends_nobody_elses(
    is_late: bool, n_generations: int, settings: dict[str, Any]
) -> None:
    study = make_study(n_generations=3, **settings)
    loop = esgd.ESGDTrainer(make_task()).open(study)

    def open_for_one_generation() -> None:
        study.sampler = esgd.ESGDSampler(4, seed=1, n_epochs=2, n_generations=1, **settings)
        esgd.ESGDTrainer(make_task()).open(study)

    if not is_late:
        open_for_one_generation()
    while loop.population.facts().generation < 1:
        loop.act(loop.decide())
    take(loop.population, SlotKey(1, 0, 0))
    if is_late:
        open_for_one_generation()
    status = read_status(study)
    assert (status.n_generations, status.is_over) == (n_generations, False)
    assert f"generation   0 (of 0 to {n_generations - 1})" in text_of(study)
    assert "1 claimed" in text_of(study)
