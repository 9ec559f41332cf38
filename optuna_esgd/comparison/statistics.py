"""Means over seeds, and whether a difference between two arms is more than luck."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Up to so many seeds all flips are tried, 2 to their power; beyond that a sample of them.
_MOST_EXACT = 16


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan
    with np.errstate(invalid="ignore"):
        return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def permutation_test(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """One-sided paired test that we are lower than they are.

    If both were alike, each difference could as well have the other sign: p is the share of sign
    flips whose mean difference is at least the one seen. With n pairs it is never below 2**-n, so
    three seeds can show nothing below 0.125.

    Args:
        ours: One value per seed, lower is better.
        theirs: Of the same seeds.

    Returns:
        p in (0, 1]; NaN if a value is not finite. Exact up to 16 pairs, else from 65,536 flips
        drawn with a fixed seed, the one seen among them.
    """
    differences = np.subtract(theirs, ours)
    if not np.isfinite(differences).all():
        return math.nan
    n_pairs = len(differences)
    n_flips = 2 ** min(n_pairs, _MOST_EXACT)
    if n_pairs <= _MOST_EXACT:
        flips = 1 - 2 * (np.arange(n_flips)[:, None] >> np.arange(n_pairs) & 1)
    else:
        flips = np.random.default_rng(0).choice((-1, 1), size=(n_flips, n_pairs))
        flips[0] = 1
    sums = flips @ differences
    # The same sum in another order must not count as less.
    slack = 1e-12 * np.abs(differences).sum()
    return float(np.mean(sums >= sums[0] - slack))
