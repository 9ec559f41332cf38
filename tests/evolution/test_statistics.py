from __future__ import annotations

import numpy as np
import pytest

from tests.evolution.statistics import assert_frequencies


def test_expected_frequencies_pass() -> None:
    draws = np.random.default_rng(0).integers(4, size=4000).tolist()
    assert_frequencies(draws, dict.fromkeys(range(4), 0.25))


@pytest.mark.parametrize(
    "expected",
    [
        {0: 0.30, 1: 0.25, 2: 0.25, 3: 0.20},
        dict.fromkeys(range(5), 0.2),
        {**dict.fromkeys(range(3), 1 / 3), 3: 0.0},
    ],
    ids=["other weights", "an outcome never drawn", "an impossible outcome drawn"],
)
def test_other_frequencies_fail(expected: dict[int, float]) -> None:
    draws = np.random.default_rng(0).integers(4, size=4000).tolist()
    with pytest.raises(AssertionError):
        assert_frequencies(draws, expected)
