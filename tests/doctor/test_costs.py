"""What a run costs: the arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest

from optuna_esgd.doctor.costs import Measured, duration, examine_time, generation_cost
from optuna_esgd.doctor.space import examine_space, most_stored_bytes, size
from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.sampler import ESGDSampler
from optuna_esgd.store.opening import open_results
from tests.doctor import healthy
from tests.doctor.patients import SETTINGS, admit

MEASURED = Measured(epoch=10.0, evaluation=1.0, offspring=0.5, n_gradients=8.0, n_forwards=2.0)


def configure(cohort_size: int = 4, **changes: Any) -> Configuration:
    averages = changes.get("back_off", "best") == "best"
    given = {"population_size": 16, "n_epochs": 4, "average_steps": averages, **changes}
    settings = Settings(**given)
    return settings.configure(seed=0, cohort_size=cohort_size, maximize=False)


def test_a_generation_is_counted_as_the_engine_charges_it() -> None:
    one = generation_cost(configure(), MEASURED, n_workers=1)
    assert one.training == 4 * 4 * 10  # cohorts, epochs, seconds
    assert one.evaluation == 4 * (4 * 2 + 3) * 1  # points and means of epochs; of the step
    assert one.offspring == 64 * 0.5
    assert one.seconds == one.training + one.evaluation + one.offspring
    assert (one.n_gradients, one.n_forwards) == (16 * 4 * 8, 16 * 4 * 2)
    assert one.n_evaluations == 16 * (4 * 2 + 3) + 64


@pytest.mark.parametrize(
    ("n_workers", "seconds"),
    [
        (2, 2 * 51 + 16),  # 4 cohorts, 16 broods of 2 seconds
        (3, 2 * 51 + 12),  # two cohorts of one worker are waited for
        (4, 51 + 8),
        (100, 51 + 2),  # no more than there are cohorts
    ],
)
def test_workers_share_whole_cohorts(n_workers: int, seconds: float) -> None:
    assert generation_cost(configure(), MEASURED, n_workers=n_workers).seconds == seconds


def test_without_the_barrier_nobody_is_waited_for() -> None:
    one = generation_cost(configure(asynchronous=True), MEASURED, n_workers=3)
    assert one.seconds == pytest.approx((4 * 51 + 32) / 3)


def test_without_back_off_only_the_end_is_scored() -> None:
    one = generation_cost(configure(back_off="none"), MEASURED, n_workers=1)
    assert one.n_evaluations == 16 + 64


def test_what_is_charged_is_what_a_run_is_charged() -> None:
    patient = admit(healthy.trainer)
    finding = examine_time(patient)
    run = optuna.create_study(sampler=ESGDSampler(**SETTINGS))
    run.optimize(healthy.trainer)
    everyone = open_results(run).individuals()
    n_generations = SETTINGS["n_generations"]
    assert finding.numbers["gradients per generation"] * n_generations == sum(  # type: ignore[operator]
        one.n_gradients for one in everyone
    )
    n_evaluations = sum(one.n_evaluations for one in everyone)
    # Founders are scored at birth; auditions of one epoch are too short for a mean of the step.
    n_births = n_fewer = SETTINGS["population_size"]
    per_generation = finding.numbers["evaluations per generation"]
    assert per_generation * n_generations + n_births - n_fewer == n_evaluations  # type: ignore[operator]
    assert f" {n_evaluations:,} evaluations" in finding.found


def test_more_workers_than_cohorts_is_worth_a_word() -> None:
    patient = admit(healthy.own_loop(), n_workers=5)
    assert "Only 4 workers can train at the same time" in examine_time(patient).advice


def test_workers_that_are_told_of_make_cohorts_small() -> None:
    assert admit(healthy.trainer, n_workers=2).configuration.cohort_size == 2


def test_the_database_holds_at_most_what_is_said() -> None:
    numbers = examine_space(admit(healthy.trainer)).numbers
    run = optuna.create_study(sampler=ESGDSampler(**SETTINGS))
    stored = []
    for _ in range(SETTINGS["population_size"] * SETTINGS["n_generations"]):
        run.optimize(healthy.trainer, n_trials=1)
        stored.append(open_results(run).stored_bytes())
    assert 0 < max(stored) <= numbers["database bytes at most"]  # type: ignore[operator]
    assert max(stored) > 0.2 * numbers["database bytes at most"]  # type: ignore[operator]


def test_bytes_are_those_of_two_generations_the_best_and_checkpoints() -> None:
    one, million = configure(n_offspring=0), 10**6
    assert most_stored_bytes(one, weights=10 * million, state=5 * million, n_workers=2) == (
        (2 * 16 * 15 + 10 + 8 * (2 * 15 + 10)) * million
    )
    assert most_stored_bytes(configure(), weights=10 * million, state=0, n_workers=1) == (
        (2 * 16 * 10 + (1 + 16) * 10 + 3 * 4 * 10) * million
    )


def test_small_generations_are_there_until_they_are_collected() -> None:
    one = configure(n_offspring=0)
    assert most_stored_bytes(one, weights=10, state=5, n_workers=2) == (
        (2 + 7) * 16 * 15 + 10 + 8 * (2 * 15 + 10)
    )
    short = configure(n_generations=3)
    assert most_stored_bytes(short, weights=10, state=0, n_workers=1) == (
        3 * 16 * 10 + (1 + 2 * 16) * 10 + 3 * 4 * 10
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3e-5, "30 µs"), (0.02, "20 ms"), (90, "90 s"), (600, "10 min"), (9000, "2.5 hours")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3.2e6, "3.2 MB"), (5e13, "50 TB")]
)
def test_sizes_in_words(n_bytes: float, text: str) -> None:
    assert size(n_bytes) == text


def test_nothing_takes_infinitely_long() -> None:
    assert np.isfinite(examine_time(admit(healthy.own_loop())).numbers["seconds per SGD step"])  # type: ignore[arg-type]
