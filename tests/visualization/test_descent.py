"""Main lines, common ancestors, founders' shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.visualization.descent import (
    _whole_ancestry,
    common_ancestor,
    effective_number,
    founder_shares,
    is_alive,
    main_line,
)
from optuna_esgd.visualization.history import History
from tests.visualization.histories import NOTHING, histories, history, one


def _bred(generation: int, number: int, *parents: tuple[int, int]) -> Individual:
    lineage = tuple(Reference(parent[0], 0, parent[1]) for parent in parents)
    return replace(one(generation, number, 1.0, 0, 0), parents=lineage)


FAMILY = history(
    one(0, 0, 4.0),
    one(0, 1, 3.0),
    one(0, 2, 5.0),
    one(1, 0, 2.0, 1),
    one(1, 1, 2.5, 1, 0),
    one(1, 2, 3.5, 2),
    one(2, 0, 1.0, 0),
    one(2, 1, 1.5, 1, 0),
    one(2, 2, 1.6, 0),
)


def test_a_family() -> None:
    assert main_line(FAMILY, 7).tolist() == [1, 4, 7]
    assert common_ancestor(FAMILY) == 1
    assert is_alive(FAMILY).tolist() == [False, True, False, True, True, False, True, True, True]
    shares = founder_shares(FAMILY)
    assert shares[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert shares[1] == pytest.approx([0.5 / 3, 1.5 / 3, 1 / 3])
    assert shares[2] == pytest.approx([0.25 / 3, 2.75 / 3, 0])
    assert effective_number(shares)[0] == pytest.approx(3)


def test_a_parent_drawn_twice_counts_twice() -> None:
    twice = history(one(0, 0, 1.0), one(0, 1, 1.0), one(1, 0, 1.0, 0, 0, 1))
    assert founder_shares(twice)[1] == pytest.approx([2 / 3, 1 / 3])


def test_nobody_has_ancestors() -> None:
    assert common_ancestor(NOTHING) is None
    assert founder_shares(NOTHING).shape == (0, 0)
    assert len(is_alive(NOTHING)) == 0


def test_two_lines_have_no_common_ancestor() -> None:
    apart = history(one(0, 0, 1.0), one(0, 1, 1.0), one(1, 0, 1.0, 0), one(1, 1, 1.0, 1))
    assert common_ancestor(apart) is None


@given(histories())
def test_common_ancestor_is_the_latest_on_all_lines(read: History) -> None:
    if not read.n_individuals:
        return
    everyone = range(*read.rows(read.last_complete).indices(read.n_individuals))
    shared = set.intersection(*(set(main_line(read, row).tolist()) for row in everyone))
    assert common_ancestor(read) == max(shared, default=None)


@given(histories())
def test_alive_is_whoever_a_latest_individual_descends_from(read: History) -> None:
    if not read.n_individuals:
        return
    start = read.starts[read.last_complete]
    latest = range(int(start), read.n_individuals)
    expected = {row for one in latest for row in main_line(read, one).tolist()}
    assert set(np.flatnonzero(is_alive(read)).tolist()) == expected


@given(histories())
def test_shares_add_up_and_founders_never_come_back(read: History) -> None:
    shares = founder_shares(read)
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert np.all((shares[1:] == 0) | (shares[:-1] > 0))
    number = effective_number(shares)
    assert np.all((number >= 1 - 1e-9) & (number <= shares.shape[1] + 1e-9))


# Without a barrier: parents of two generations ago, of the same one, and of a later one.
_FAR = history(
    one(0, 0, 4.0),
    one(0, 1, 3.0),
    _bred(1, 0, (0, 0), (0, 1)),
    _bred(1, 1, (2, 0), (0, 1)),
    _bred(2, 0, (1, 0), (0, 0)),
    _bred(2, 1, (2, 0), (1, 1)),
)


def test_parents_of_any_generation() -> None:
    shares = founder_shares(_FAR)
    assert shares[0] == pytest.approx([0.5, 0.5])
    assert shares[1] == pytest.approx([(0.5 + 0.375) / 2, (0.5 + 0.625) / 2])
    assert shares[2] == pytest.approx([(0.75 + 0.5625) / 2, (0.25 + 0.4375) / 2])
    assert is_alive(_FAR).tolist() == [True, False, True, False, True, True]
    assert common_ancestor(_FAR) == 4
    assert main_line(_FAR, 3).tolist() == [0, 2, 4, 3]


@given(histories())
def test_both_ways_to_founders_shares_agree(read: History) -> None:
    n_founders = int((read.generation == 0).sum())
    ancestry = _whole_ancestry(read, n_founders)
    for generation, row in enumerate(founder_shares(read)):
        assert ancestry[read.rows(generation)].mean(axis=0) == pytest.approx(row)
