from __future__ import annotations

import math

import numpy as np
import pytest

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.tournament import decide_tournament, draw_contestants


def test_every_pair_comes_equally_often() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((4, 4))
    for _ in range(12_000):
        counts[draw_contestants(4, rng)] += 1
    assert np.all(np.diag(counts) == 0)
    drawn = counts[~np.eye(4, dtype=bool)]
    assert np.abs(drawn - 1000).max() < 5 * math.sqrt(1000)


@pytest.mark.parametrize(
    ("fitness", "winner"),
    [
        ((1.0, 2.0), 5),
        ((2.0, 1.0), 3),
        ((1.0, 1.0), 5),
        ((math.nan, 1.0), 3),
        ((1.0, math.nan), 5),
        ((-math.inf, 1.0), 3),
    ],
)
def test_the_fitter_one_wins(fitness: tuple[float, float], winner: int) -> None:
    match = decide_tournament((5, 3), fitness)
    assert match.winner == winner
    assert {match.winner, match.loser} == {3, 5}


def test_one_is_no_tournament() -> None:
    with pytest.raises(ConfigurationError, match="two individuals, got 1"):
        draw_contestants(1, np.random.default_rng(0))
