"""Names, colours, sizes."""

from __future__ import annotations

import html

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.visualization.style import helps_log, plain, small, styles


@given(st.text(max_size=60))
def test_plain_text_reads_as_the_name_and_is_nothing_else(name: str) -> None:
    text = plain(name)
    assert not {"<", ">", "$", "%", "\n"} & set(text)
    shown = html.unescape(text)
    assert shown == " ".join(name.split())[: len(shown)] or shown.endswith("…")
    assert len(shown) <= 40


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [([0, 127], "int8"), ([-1, 128], "int16"), ([0, 70000], "int32"), ([0, 2**40], "float64")],
)
def test_whole_numbers_become_small_and_stay_exact(numbers: list[int], kind: str) -> None:
    made = small(np.array(numbers))
    assert made.dtype == kind
    assert made.tolist() == numbers


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 31], True),
        ([1, 29], False),
        ([0, 100], False),
        ([-1, 1], False),
        ([], False),
        ([1, 100, np.nan, np.inf], True),
    ],
)
def test_log_axes(numbers: list[float], expected: bool) -> None:
    assert helps_log(np.array(numbers, dtype=float)) is expected


def test_styles_differ_and_stay() -> None:
    names = [f"S{number}" for number in range(12)]
    made = styles(names)
    assert len({style.colour for style in made}) == 12
    assert len({style.symbol for style in made}) == 12
    assert [style.colour for style in styles(names[:5])] == [style.colour for style in made[:5]]
    assert "#D55E00" not in {style.colour for style in made}
