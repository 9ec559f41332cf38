from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import (
    Choices,
    FloatRange,
    IntRange,
    Range,
    Scale,
    Value,
    begin,
    contains,
    middle,
    perturb,
    resample,
)
from tests.evolution.statistics import assert_frequencies

seeds = st.integers(0, 2**32)


@st.composite
def float_ranges(draw: st.DrawFn) -> FloatRange:
    scale: Scale = draw(st.sampled_from(["linear", "log", "one_minus"]))
    if scale == "log":
        low = 10.0 ** draw(st.floats(-12, 3))
        high = low * 10.0 ** draw(st.floats(0, 6))
    elif scale == "one_minus":
        high = 1.0 - 10.0 ** draw(st.floats(-9, 0.5))
        low = min(high, 1.0 - (1.0 - high) * 10.0 ** draw(st.floats(0, 6)))
    else:
        low = draw(st.floats(-1e6, 1e6))
        high = low + draw(st.just(0.0) | st.floats(1e-6, 1e6))
    step = draw(st.none() | st.floats(0.01, 1.5))
    return FloatRange(low, high, scale, None if step is None else step * (high - low) or None)


@st.composite
def int_ranges(draw: st.DrawFn) -> IntRange:
    scale: Scale = draw(st.sampled_from(["linear", "log"]))
    low = draw(st.integers(1 if scale == "log" else -1000, 1000))
    return IntRange(low, low + draw(st.integers(0, 1000)), scale, draw(st.integers(1, 20)))


choices = st.lists(
    st.sampled_from([None, True, False, 1, 0, 1.0, 0.5, "adam", ""]), min_size=1, max_size=4
).map(lambda values: Choices(tuple(values)))
ranges = float_ranges() | int_ranges() | choices
values = (
    st.none()
    | st.booleans()
    | st.floats(-1e9, 1e9)
    | st.integers(-2000, 2000)
    | st.sampled_from([math.nan, math.inf, -math.inf, "adam", "", "sgd"])
)


def is_on_grid(range_: FloatRange | IntRange, value: Value) -> bool:
    assert isinstance(value, int | float)
    if range_.step is None or value == range_.high:  # the last point may be rounded onto the bound
        return True
    nearest = range_.low + round((value - range_.low) / range_.step) * range_.step
    return math.isclose(value, nearest, rel_tol=1e-12, abs_tol=1e-12)


def assert_belongs(range_: Range, value: Value) -> None:
    """It lies inside, on the grid, and is of the range's own type."""
    assert contains(range_, value)
    if isinstance(range_, Choices):
        assert any(
            value is one or (value == one and type(value) is type(one)) for one in range_.values
        )
        return
    assert type(value) is (int if isinstance(range_, IntRange) else float)
    assert range_.low <= value <= range_.high
    assert is_on_grid(range_, value)


@given(ranges, seeds)
def test_drawn_values_belong_to_the_range(range_: Range, seed: int) -> None:
    assert_belongs(range_, resample(range_, stream(seed)))


@given(ranges, seeds, st.floats(0, 1))
def test_perturbed_values_belong_to_the_range(
    range_: Range, seed: int, resample_probability: float
) -> None:
    """Also after many generations: inheriting never drifts out."""
    value = resample(range_, stream(seed))
    for generation in range(5):
        value = perturb(
            range_, value, resample_probability=resample_probability, rng=stream(seed, generation)
        )
        assert_belongs(range_, value)


@given(ranges, values, seeds)
def test_whatever_is_inherited_comes_inside(range_: Range, value: Value, seed: int) -> None:
    moved = perturb(range_, value, resample_probability=0.1, rng=stream(seed))
    assert contains(range_, moved)
    if not contains(range_, value):
        assert_belongs(range_, moved)


@given(float_ranges() | int_ranges(), seeds)
def test_gridded_numbers_move_by_at_least_one_step(
    range_: FloatRange | IntRange, seed: int
) -> None:
    assume(range_.step is not None and range_.high - range_.low >= range_.step)
    assert range_.step is not None
    assume(range_.step > 1e4 * math.ulp(max(abs(range_.low), abs(range_.high))))
    value = resample(range_, stream(seed))
    moved = perturb(range_, value, resample_probability=0.0, rng=stream(seed, "moved"))
    assert isinstance(value, int | float)
    assert isinstance(moved, int | float)
    assert abs(moved - value) >= range_.step * (1 - 1e-3)


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(("low", "high"), [(1, 2), (1, 100), (4, 5)])
def test_whole_numbers_leave_the_bounds(scale: Scale, low: int, high: int) -> None:
    for value in (low, high):
        range_ = IntRange(low, high, scale)
        moved = {perturb(range_, value, resample_probability=0, rng=stream(i)) for i in range(20)}
        assert value not in moved


@pytest.mark.parametrize(
    ("range_", "value", "expected"),
    [
        (FloatRange(1.0, 1000.0), 100.0, {80.0, 125.0}),
        (FloatRange(0.0, 10.0), 4.0, {3.2, 5.0}),
        (FloatRange(-10.0, 10.0), 0.0, {-2.0, 2.5}),
        (FloatRange(1e-5, 1.0, "log"), 1e-2, {0.8e-2, 1.25e-2}),
        (FloatRange(0.0, 0.9999, "one_minus"), 0.9, {0.92, 0.875}),
        (FloatRange(0.0, 1.0, step=0.1), 0.5, {0.4, 0.6}),
        (IntRange(1, 1000), 100, {80, 125}),
        (IntRange(16, 512, "log"), 64, {51, 80}),
        (IntRange(0, 10), 1, {0, 2}),
        (IntRange(0, 100, step=25), 50, {25, 75}),
    ],
    ids=str,
)
def test_numbers_are_multiplied_on_their_scale(
    range_: Range, value: float, expected: set[float]
) -> None:
    drawn = [perturb(range_, value, resample_probability=1, rng=stream(i)) for i in range(400)]
    rounded = [round(one, 12) for one in drawn if isinstance(one, int | float)]
    assert_frequencies(rounded, dict.fromkeys(expected, 0.5))


@pytest.mark.parametrize(
    ("range_", "value", "expected"),
    [
        (FloatRange(1.0, 10.0), 9.0, {7.2, 20.0 - 11.25}),
        (FloatRange(1.0, 10.0), 1.0, {1.2, 1.25}),
        (FloatRange(-1.0, 1.0), 1.0, {0.6, 0.5}),
        (FloatRange(1e-3, 1.0, "log"), 0.9, {0.72, 1 / 1.125}),
        (FloatRange(1e-3, 1.0, "log"), 1e-3, {1.25e-3}),
        (FloatRange(0.5, 0.99, "one_minus"), 0.99, {0.9875}),
        (FloatRange(0.5, 0.99, "one_minus"), 0.5, {0.6}),
        (FloatRange(10.0, 10.5), 10.0, {10.0, 10.5}),
    ],
    ids=str,
)
def test_numbers_are_reflected_at_the_bounds(
    range_: Range, value: float, expected: set[float]
) -> None:
    moved = {perturb(range_, value, resample_probability=0, rng=stream(i)) for i in range(40)}
    assert {round(one, 12) for one in moved if isinstance(one, float)} == {
        round(one, 12) for one in expected
    }


@pytest.mark.parametrize(
    "range_",
    [FloatRange(0.0, 1e-17, "one_minus"), FloatRange(1e300, 1.0000000000000003e300, "log")],
    ids=str,
)
def test_bounds_that_round_to_one_point_of_the_scale(range_: FloatRange) -> None:
    for i in range(20):
        assert contains(range_, perturb(range_, range_.low, resample_probability=0, rng=stream(i)))


def test_choices_are_kept_or_drawn_anew() -> None:
    range_ = Choices((None, "cosine", True, 1))
    for value in range_.values:
        moved = perturb(range_, value, resample_probability=0, rng=stream(0))
        assert moved is value
    drawn = [
        repr(perturb(range_, None, resample_probability=0.4, rng=stream(i))) for i in range(2000)
    ]
    assert_frequencies(drawn, {"None": 0.7, "'cosine'": 0.1, "True": 0.1, "1": 0.1})


@pytest.mark.parametrize(
    ("range_", "n_values"),
    [
        (Choices(("a", "b", "c")), 3),
        (IntRange(2, 9, step=2), 4),
        (FloatRange(0.0, 1.0, step=0.25), 5),
    ],
    ids=str,
)
def test_discrete_values_are_drawn_evenly(range_: Range, n_values: int) -> None:
    drawn = [resample(range_, stream(i)) for i in range(2000)]
    assert_frequencies(drawn, dict.fromkeys(set(drawn), 1 / n_values))


@pytest.mark.parametrize(
    ("range_", "quartiles"),
    [
        (FloatRange(-2.0, 2.0), (-1.0, 0.0, 1.0)),
        (FloatRange(1e-4, 1.0, "log"), (1e-3, 1e-2, 1e-1)),
        (FloatRange(0.0, 0.9999, "one_minus"), (0.9, 0.99, 0.999)),
    ],
    ids=str,
)
def test_real_values_are_spread_evenly_on_their_scale(
    range_: FloatRange, quartiles: tuple[float, ...]
) -> None:
    drawn = [resample(range_, stream(i)) for i in range(2000)]
    quarter = [sum(value > bound for bound in quartiles) for value in drawn]  # type: ignore[operator]
    assert_frequencies(quarter, dict.fromkeys(range(4), 0.25))


@pytest.mark.parametrize(
    ("range_", "value", "expected"),
    [
        (FloatRange(0, 1), 0.0, True),
        (FloatRange(0, 1), 1, True),
        (FloatRange(0, 1), 1.0000001, False),
        (FloatRange(0, 1), math.nan, False),
        (FloatRange(0, 1), True, False),
        (FloatRange(0, 1), "0.5", False),
        (FloatRange(0, 1), None, False),
        (IntRange(1, 3), 3, True),
        (IntRange(1, 3), 4, False),
        (Choices((1, "a")), 1, True),
        (Choices((1, "a")), True, False),
        (Choices((1, "a")), 1.0, False),
        (Choices((1, None)), None, True),
        (Choices((1, "a")), None, False),
    ],
    ids=str,
)
def test_contains(range_: Range, value: Value, *, expected: bool) -> None:
    assert contains(range_, value) is expected
    assert contains(range_, value) is expected  # asking changes nothing


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FloatRange(2, 1), "FloatRange needs finite bounds with low <= high, got [2, 1]."),
        (lambda: FloatRange(0, math.inf), "finite bounds"),
        (lambda: FloatRange(math.nan, 1), "finite bounds"),
        (lambda: FloatRange(1, 10**400, "log"), "FloatRange needs finite bounds"),
        (lambda: IntRange(1, 10**400), "IntRange needs finite bounds"),
        (lambda: IntRange(1, 9, step=10**400), "IntRange needs step > 0, got 1000"),
        (lambda: FloatRange(0, 1, "log"), "A log range needs low > 0, got [0, 1]."),
        (lambda: FloatRange(0, 1, "one_minus"), "A one_minus range needs high < 1, got [0, 1]."),
        (lambda: FloatRange(0, 1, "logarithmic"), "the scale 'linear', 'log' or 'one_minus'"),
        (lambda: FloatRange(0, 1, step=0), "FloatRange needs step > 0, got 0."),
        (lambda: FloatRange(0, 1, step=math.nan), "step > 0, got nan"),
        (lambda: FloatRange("0", 1), "FloatRange needs real numbers, got low='0'"),
        (lambda: FloatRange(False, 1), "real numbers, got low=False"),
        (lambda: IntRange(2, 1), "IntRange needs finite bounds with low <= high, got [2, 1]."),
        (lambda: IntRange(0, 8, "log"), "A log range needs low > 0"),
        (lambda: IntRange(0, 8, step=-1), "IntRange needs step > 0, got -1."),
        (lambda: IntRange(0, 2.5), "IntRange needs whole numbers, got low=0, high=2.5"),
        (lambda: IntRange(0, 8, step=None), "whole numbers"),
        (lambda: FloatRange(0, 1, start=2.0), "a start that it holds, got 2.0 for [0, 1]."),
        (lambda: FloatRange(0, 1, start="0"), "step=None, start='0'"),
        (lambda: FloatRange(0, 1, start=math.nan), "a start that it holds, got nan"),
        (lambda: FloatRange(0, 1, step=0.25, start=0.3), "got 0.3 for [0, 1] in steps of 0.25."),
        (lambda: IntRange(0, 8, start=1.5), "whole numbers"),
        (lambda: IntRange(0, 8, step=2, start=3), "got 3 for [0, 8] in steps of 2."),
        (lambda: Choices(()), "Choices needs at least one value, got none."),
    ],
)  # fmt: skip
def test_impossible_ranges_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()  # type: ignore[operator]
    assert message in str(caught.value)


def test_the_middle_is_that_of_the_scale() -> None:
    assert middle(FloatRange(1e-4, 1e-2, "log")) == pytest.approx(1e-3)
    assert middle(FloatRange(0.9, 0.999, "one_minus")) == pytest.approx(0.99)
    assert middle(FloatRange(1.0, 2.0)) == 1.5
    assert middle(IntRange(1, 5)) == 3
    assert middle(Choices(("b", "a"))) == "b"


def test_ranges_without_a_start_are_written_as_ever() -> None:
    """Studies remember them in these words."""
    assert repr(FloatRange(0, 1)) == "FloatRange(low=0, high=1, scale='linear', step=None)"
    assert repr(IntRange(1, 9, "log")) == "IntRange(low=1, high=9, scale='log', step=1)"
    assert repr(IntRange(1, 9, start=3)) == (
        "IntRange(low=1, high=9, scale='linear', step=1, start=3)"
    )


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0.1, 0.9, 0.1), (0.0, 2.0, 0.05), (0.1, 2.0, 0.2)]
)
def test_every_point_of_a_grid_is_a_start(low: float, high: float, step: float) -> None:
    """As people write it: 0.3, not 0.1 + 2 * 0.1."""
    rng = stream(0, "start")
    for number in range(round((high - low) / step)):
        start = round(low + number * step, 6)
        range_ = FloatRange(low, high, step=step, start=start)
        assert begin(range_, rng) == pytest.approx(start)
        assert begin(range_, rng) == low + number * step
