"""How far counts may be from their expectation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping


def assert_frequencies(draws: Iterable[Hashable], expected: Mapping[Hashable, float]) -> None:
    """Fail if draws do not follow the expected probabilities, or hit what has none.

    Pearson's χ² with d degrees of freedom has mean d and variance 2d. Callers draw from fixed
    seeds, so a test that passes once passes always; six standard deviations leave no doubt about
    one that fails.
    """
    counts = Counter(draws)
    possible = {outcome: p for outcome, p in expected.items() if p > 0}
    assert counts.keys() <= possible.keys(), "drawn although impossible"
    n_draws = counts.total()
    assert min(possible.values()) * n_draws >= 5, "too few draws for the χ² approximation"
    chi_square = sum(
        (counts[outcome] - n_draws * p) ** 2 / (n_draws * p) for outcome, p in possible.items()
    )
    freedom = len(possible) - 1
    assert chi_square <= freedom + 6 * math.sqrt(2 * freedom), (chi_square, freedom, counts)
