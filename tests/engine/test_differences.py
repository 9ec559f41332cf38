"""Differences in words: long values are shown where they differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.engine.differences import in_words


def ranges(*, low: float = 0.1, momentum: float = 0.5, more: str = ", nesterov=0") -> str:
    return f"<SGD: lr=Range(low={low}, high=1.0), momentum=Range(low={momentum}, high=0.99){more}>"


@pytest.mark.parametrize(
    ("theirs", "mine", "words"),
    [
        (1, 2, "1 in the study and 2 here"),
        ("rank", None, "'rank' in the study and None here"),
        (ranges(), None, "in the study and not here"),
        (None, ranges(), "here and not in the study"),
    ],
)
def test_values_that_are_short_or_not_there(theirs: object, mine: object, words: str) -> None:
    assert in_words({"x": theirs}, {"x": mine}, ["x"]) == f"x is {words}"


@pytest.mark.parametrize(
    ("mine", "theirs_in_words", "mine_in_words"),
    [
        (
            ranges(low=0.2),
            "<SGD: lr=Range(low=0.1, high=1.0), ..",
            "<SGD: lr=Range(low=0.2, high=1.0), ..",
        ),
        (
            ranges(momentum=0.7),
            ".., momentum=Range(low=0.5, high=0.99), ..",
            ".., momentum=Range(low=0.7, high=0.99), ..",
        ),
        (ranges(more=", nesterov=1"), ".., nesterov=0>", ".., nesterov=1>"),
        (
            ranges(more=""),
            ".., momentum=Range(low=0.5, high=0.99), nesterov=0>",
            ".., momentum=Range(low=0.5, high=0.99)>",
        ),
    ],
)
def test_of_long_texts_what_differs(mine: str, theirs_in_words: str, mine_in_words: str) -> None:
    words = in_words({"x": ranges()}, {"x": mine}, ["x"])
    assert words == f'x is "{theirs_in_words}" in the study and "{mine_in_words}" here'


def test_an_absent_value_is_none() -> None:
    assert in_words({"a": 1}, {"b": 2}, ["a", "b"]) == (
        "a is 1 in the study and None here; b is None in the study and 2 here"
    )


PARTS = st.lists(st.sampled_from(["a", "f(1", "2)", "g(3)", "", "x" * 70]), min_size=1, max_size=6)


@given(PARTS, PARTS)
def test_whatever_differs_is_shown_to_differ(one: list[str], other: list[str]) -> None:
    theirs, mine = ", ".join(one), ", ".join(other)
    words = in_words({"x": theirs}, {"x": mine}, ["x"])
    a, _, b = words.removeprefix("x is ").removesuffix(" here").partition(" in the study and ")
    assert (a == b) == (theirs == mine)
