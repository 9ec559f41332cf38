from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.comparison.statistics import permutation_test, standard_error

whole = st.integers(-50, 50).map(float)  # sums of these are exact
pairs = st.lists(st.tuples(whole, whole), min_size=1, max_size=7)


@given(pairs)
def test_p_is_the_share_of_sign_flips_that_differ_as_much(
    values: list[tuple[float, float]],
) -> None:
    ours, theirs = zip(*values, strict=True)
    differences = [b - a for a, b in values]
    sums = [
        sum(sign * one for sign, one in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = sum(one >= sum(differences) for one in sums) / len(sums)
    assert permutation_test(ours, theirs) == pytest.approx(expected)


@given(pairs)
def test_p_of_both_directions_covers_everything(values: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*values, strict=True)
    assert permutation_test(ours, theirs) + permutation_test(theirs, ours) >= 1
    assert permutation_test(ours, theirs) >= 0.5 ** len(values)


def test_always_better_is_as_good_as_it_gets() -> None:
    assert permutation_test([0.1, 0.2, 0.3], [0.4, 0.3, 0.9]) == 1 / 8
    assert permutation_test([0.4, 0.3, 0.9], [0.1, 0.2, 0.3]) == 1
    assert permutation_test([1.0, 1.0], [1.0, 1.0]) == 1


def test_rounding_does_not_break_ties() -> None:
    ours = [0.0] * 10
    theirs = [0.1, 0.2, 0.3, 0.7, 0.1, 0.2, 0.3, 0.7, 0.1, -0.1]
    # The two last differences are alike but for their sign: flipping both changes nothing.
    assert permutation_test(ours, theirs) >= 2 / 2**10


def test_many_seeds_are_sampled_and_give_the_same_twice() -> None:
    ours, theirs = [0.0] * 20, [1.0] * 20
    assert permutation_test(ours, theirs) == permutation_test(ours, theirs) <= 1e-4
    half = [1.0, -1.0] * 10
    assert permutation_test(ours, half) == pytest.approx(0.588, abs=0.01)  # binomial(20) at 10


def test_one_that_diverged_leaves_p_unknown() -> None:
    assert math.isnan(permutation_test([0.1, 0.2], [math.inf, 0.3]))


def test_the_standard_error_is_of_the_mean() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(5 / 3) / 2)
    assert math.isnan(standard_error([1.0]))
