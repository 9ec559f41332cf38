"""How two configurations differ, in words that are short even where the values are long."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

_LONG = 60  # characters; shorter values are shown as they are
_BREAK = ", "


def in_words(theirs: Mapping[str, Any], mine: Mapping[str, Any], names: list[str]) -> str:
    """Say of each name what the study has and what is here; of long texts only what differs."""
    return "; ".join(_clause(name, theirs, mine) for name in names)


def _clause(name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    a, b = theirs.get(name), mine.get(name)
    if max(len(repr(a)), len(repr(b))) <= _LONG:
        return f"{name} is {a!r} in the study and {b!r} here"
    if b is None:
        return f"{name} is in the study and not here"
    if a is None:
        return f"{name} is here and not in the study"
    a, b = _without_what_agrees(str(a), str(b))
    return f"{name} is {a} in the study and {b} here"


def _without_what_agrees(one: str, other: str) -> tuple[str, str]:
    """Both texts without the parts that they begin and end with alike."""
    a, b = one.split(_BREAK), other.split(_BREAK)
    first = _n_alike(a, b)
    while _is_in_brackets(a[:first]):
        first -= 1  # what stands before the bracket says what this is about
    last = min(_n_alike(a[::-1], b[::-1]), len(a) - first, len(b) - first)
    while last and _is_in_brackets(a[:-last]) | _is_in_brackets(b[:-last]):
        last -= 1
    return _between(a, first, last), _between(b, first, last)


def _is_in_brackets(parts: list[str]) -> bool:
    text = _BREAK.join(parts)
    return text.count("(") > text.count(")")


def _n_alike(a: list[str], b: list[str]) -> int:
    pairs = zip(a, b, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _between(parts: list[str], first: int, last: int) -> str:
    end = len(parts) - last
    kept = [*([".."] if first else []), *parts[first:end], *([".."] if last else [])]
    return f'"{_BREAK.join(kept)}"'
