from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range, resample
from optuna_esgd.sampler.distributions import (
    contains,
    plain_value,
    suggest,
    to_distribution,
    to_range,
)
from tests.sampler.studies import make_study

FINITE = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-9, 1e6)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@st.composite
def float_ranges(draw: st.DrawFn) -> FloatRange:
    match draw(st.sampled_from(["linear", "log", "one_minus", "step"])):
        case "log":
            low, high = sorted(draw(st.tuples(POSITIVE, POSITIVE)))
            return FloatRange(low, high, "log")
        case "one_minus":
            return FloatRange(draw(st.floats(0, 0.9)), draw(st.floats(0.9, 0.9999)), "one_minus")
        case "step":
            # Three decimals: with more, Optuna warns of a rounding error of its own.
            low, n, step = (draw(st.integers(a, b)) for a, b in [(-9999, 9999), (0, 50), (1, 999)])
            return FloatRange(low / 1000, (low + n * step) / 1000, "linear", step / 1000)
    low, high = sorted(draw(st.tuples(FINITE, FINITE)))
    is_near_one = low >= 0 and 0.9 <= high < 1
    return FloatRange(low, high, "one_minus" if is_near_one else "linear")


@st.composite
def int_ranges(draw: st.DrawFn) -> IntRange:
    is_log = draw(st.booleans())
    low = draw(st.integers(1, 10_000) if is_log else st.integers(-10_000, 10_000))
    high = low + draw(st.integers(0, 10_000))
    return (
        IntRange(low, high, "log") if is_log else IntRange(low, high, step=draw(st.integers(1, 9)))
    )


RANGES = float_ranges() | int_ranges() | st.builds(Choices, st.lists(PLAIN, min_size=1).map(tuple))


@pytest.mark.parametrize(
    ("distribution", "range_"),
    [
        (FloatDistribution(-1, 1), FloatRange(-1.0, 1.0)),
        (FloatDistribution(1e-5, 1, log=True), FloatRange(1e-5, 1.0, "log")),
        (FloatDistribution(0, 1, step=0.25), FloatRange(0.0, 1.0, step=0.25)),
        (FloatDistribution(0, 0.999), FloatRange(0.0, 0.999, "one_minus")),
        (FloatDistribution(0.5, 0.9), FloatRange(0.5, 0.9, "one_minus")),
        (FloatDistribution(0, 0.89), FloatRange(0.0, 0.89)),
        (FloatDistribution(0, 1), FloatRange(0.0, 1.0)),
        (FloatDistribution(-0.1, 0.99), FloatRange(-0.1, 0.99)),
        (FloatDistribution(0, 0.9, step=0.1), FloatRange(0.0, 0.9, step=0.1)),
        (FloatDistribution(0.1, 0.99, log=True), FloatRange(0.1, 0.99, "log")),
        (IntDistribution(0, 9), IntRange(0, 9)),
        (IntDistribution(1, 9, log=True), IntRange(1, 9, "log")),
        (IntDistribution(0, 8, step=4), IntRange(0, 8, step=4)),
        (CategoricalDistribution([None, True, "a"]), Choices((None, True, "a"))),
    ],
)
def test_ranges_of_distributions(distribution: BaseDistribution, range_: Range) -> None:
    assert to_range(distribution) == range_
    assert to_distribution(range_) == distribution


@pytest.mark.parametrize(
    ("range_", "distribution"),
    [
        (FloatRange(0.1, 1.0, "log", step=0.25), FloatDistribution(0.1, 0.85, step=0.25)),
        (FloatRange(0.0, 1.0, step=0.3), FloatDistribution(0, 0.9, step=0.3)),
        (IntRange(1, 9, "log", step=4), IntDistribution(1, 9, step=4)),
        (IntRange(0, 10, step=4), IntDistribution(0, 8, step=4)),
    ],
)
def test_what_optuna_cannot_show_becomes_linear_and_ends_on_the_grid(
    range_: Range, distribution: BaseDistribution
) -> None:
    assert to_distribution(range_) == distribution


@given(RANGES)
def test_there_and_back_gives_the_same_values(range_: Range) -> None:
    distribution = to_distribution(range_)
    again = to_range(distribution)
    if isinstance(range_, Choices):
        assert again == range_ or any(
            math.isnan(one) for one in range_.values if isinstance(one, float)
        )
        return
    assert isinstance(again, type(range_))
    assert (again.low, again.step) == (range_.low, range_.step)
    assert again.scale == range_.scale or range_.step is not None
    # Only the upper bound of a grid moves, to its last point.
    assert range_.high - (range_.step or 0) <= again.high <= range_.high
    assert to_distribution(again) == distribution


@given(RANGES, st.integers(0, 2**32))
def test_a_drawn_value_is_one_of_the_distribution(range_: Range, seed: int) -> None:
    distribution = to_distribution(range_)
    value = resample(to_range(distribution), np.random.default_rng(seed))
    internal = distribution.to_internal_repr(value)
    if not isinstance(range_, FloatRange) or range_.step is None:
        assert distribution._contains(internal)
    assert type(plain_value(distribution, value)) is type(value) or isinstance(range_, Choices)


def test_equal_choices_of_other_types_are_told_apart() -> None:
    assert to_range(CategoricalDistribution((1, 0))) == Choices((1, 0))
    values = to_range(CategoricalDistribution((True, False)))
    assert isinstance(values, Choices)
    assert values.values[0] is True


@pytest.mark.parametrize(
    ("distribution", "value", "plain"),
    [
        (FloatDistribution(0, 2), 1, 1.0),
        (FloatDistribution(0, 2), np.float32(0.5), 0.5),
        (IntDistribution(0, 2), 1.0, 1),
        (IntDistribution(0, 2), np.int64(2), 2),
        (CategoricalDistribution([True, 1, 1.0]), 1, 1),
        (CategoricalDistribution([True, "a"]), 1, True),
        (CategoricalDistribution([0.5, None]), None, None),
    ],
)
def test_plain_values(distribution: BaseDistribution, value: Any, plain: Any) -> None:
    result = plain_value(distribution, value)
    assert result == plain
    assert type(result) is type(plain)


@pytest.mark.parametrize(
    ("distribution", "value"),
    [
        (FloatDistribution(0, 2), 2.1),
        (FloatDistribution(0, 2), math.nan),
        (FloatDistribution(0, 2), None),
        (FloatDistribution(0, 2), "x"),
        (FloatDistribution(0, 1, step=0.5), 0.4),
        (FloatDistribution(1, 2, log=True), -1),
        (IntDistribution(0, 4, step=2), 3),
        (IntDistribution(0, 2), 10**400),
        (CategoricalDistribution(["a"]), "b"),
        (CategoricalDistribution(["a"]), [1]),
    ],
)
def test_values_outside_are_refused(distribution: BaseDistribution, value: Any) -> None:
    assert not contains(distribution, value)
    with pytest.raises(StudyError, match="is not a value of"):
        plain_value(distribution, value)


@given(RANGES)
def test_suggest_uses_the_distribution(range_: Range) -> None:
    distribution = to_distribution(range_)
    trial = make_study().ask()
    value = suggest(trial, "x", distribution)
    assert trial.distributions["x"] == distribution or isinstance(range_, Choices)
    assert trial.params["x"] is value or trial.params["x"] == value


def test_other_kinds_of_distribution_are_refused() -> None:
    class Gaussian(FloatDistribution.__base__):  # type: ignore[name-defined,misc]
        to_internal_repr = to_external_repr = single = _contains = None

    with pytest.raises(ConfigurationError, match=r"knows FloatDistribution, .* got Gaussian"):
        to_range(Gaussian())
    with pytest.raises(ConfigurationError, match="knows FloatDistribution"):
        suggest(make_study().ask(), "x", Gaussian())
    with pytest.raises(ConfigurationError, match="finite bounds"):
        to_range(FloatDistribution(0, math.inf))
