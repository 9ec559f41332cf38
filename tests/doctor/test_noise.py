"""The bootstrap of fitness differences."""

from __future__ import annotations

import numpy as np
import pytest

from optuna_esgd.doctor.differences import difference
from optuna_esgd.doctor.fitness_noise import measure


def test_the_bootstrap_gives_the_standard_error_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=500)  # what makes an example hard for everybody does not count
    best = 10 * shared
    other = 10 * shared + 0.2 + rng.normal(size=500)
    noise = measure(np.stack([other, best]), seed=0)
    expected = 2 * (other - best).std(ddof=1) / np.sqrt(500)
    assert noise.smallest == pytest.approx(expected, rel=0.15)
    assert noise.best_to_second == pytest.approx((other - best).mean())
    assert noise.p_best > 0.9


def test_alike_individuals_cannot_be_told_apart() -> None:
    losses = np.random.default_rng(0).normal(size=(8, 50))
    noise = measure(losses, seed=0)
    assert noise.best_to_second < noise.smallest
    assert noise.p_best < 0.9


@pytest.mark.parametrize(
    ("one", "other", "largest", "n_differing"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0),
        ([1.0, 2.0], [1.0, 2.5], 0.5, 1),
        ([np.inf, 2.0], [np.inf, 2.0], 0.0, 0),
        ([np.inf, 2.0], [1.0, 2.0], np.inf, 1),
        ([0.0], [0.0], 0.0, 0),
    ],
)
def test_differences(
    one: list[float], other: list[float], largest: float, n_differing: int
) -> None:
    found = difference(one, other)
    assert (found.largest, found.n_differing) == (largest, n_differing)
    assert (found.relative == 0) == (largest == 0)
