from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range, contains
from optuna_esgd.sampler.coordinates import cell_width, reflect, to_coordinate, to_value
from tests.sampler.test_distributions import RANGES, float_ranges, int_ranges

UNIT = st.floats(0, 1)


@given(RANGES, UNIT)
def test_every_coordinate_is_a_value_of_the_range(range_: Range, coordinate: float) -> None:
    value = to_value(range_, coordinate)
    if isinstance(range_, Choices):
        assert any(value is one for one in range_.values)
        return
    assert contains(range_, value)
    assert type(value) is (int if isinstance(range_, IntRange) else float)


@given(float_ranges() | int_ranges(), UNIT)
def test_there_and_back(range_: FloatRange | IntRange, coordinate: float) -> None:
    value = to_value(range_, coordinate)
    again = to_coordinate(range_, value)  # type: ignore[arg-type]
    assert 0 <= again <= 1
    assert to_value(range_, again) == pytest.approx(value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("range_", "middle"),
    [
        (FloatRange(-1.0, 3.0), 1.0),
        (FloatRange(1e-4, 1.0, "log"), 1e-2),
        (FloatRange(0.0, 0.9999, "one_minus"), 0.99),
        (IntRange(1, 5), 3),
        (FloatRange(0.0, 1.0, step=0.25), 0.5),
        (IntRange(0, 10, step=5), 5),
        (FloatRange(2.0, 2.0), 2.0),
        (FloatRange(2.0, 2.0, "log"), 2.0),
    ],
)
def test_the_middle_is_the_middle_of_the_scale(
    range_: FloatRange | IntRange, middle: float
) -> None:
    assert to_value(range_, 0.5) == pytest.approx(middle)
    assert to_coordinate(range_, middle) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "range_",
    [IntRange(3, 7), IntRange(0, 12, step=3), FloatRange(-1.0, 1.0, step=0.5), Choices("abcde")],
)
def test_each_grid_point_and_choice_owns_an_equal_part(range_: Range) -> None:
    drawn = Counter(to_value(range_, u) for u in np.linspace(0.0005, 0.9995, 1000))
    assert set(drawn.values()) == {200}


def test_an_unreachable_upper_bound_owns_nothing() -> None:
    drawn = {to_value(IntRange(0, 10, step=4), u) for u in np.linspace(0, 1, 1000)}
    assert drawn == {0, 4, 8}


def test_cells() -> None:
    assert cell_width(IntRange(0, 3)) == 0.25
    assert cell_width(FloatRange(0.0, 1.0, step=0.1)) == pytest.approx(1 / 11)
    assert cell_width(FloatRange(0.0, 1.0)) == 0


@given(st.floats(-10, 10))
def test_reflection_stays_inside_and_is_continuous(coordinate: float) -> None:
    assert 0 <= reflect(coordinate) <= 1
    assert reflect(coordinate + 1e-6) == pytest.approx(reflect(coordinate), abs=2e-6)


@given(UNIT)
def test_reflection_leaves_what_is_inside(coordinate: float) -> None:
    assert reflect(coordinate) == coordinate
