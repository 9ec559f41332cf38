"""What founders have contributed."""

from __future__ import annotations

import pytest
from hypothesis import given

from optuna_esgd.visualization.founder_share import draw_founder_share, founder_share
from optuna_esgd.visualization.history import History
from tests.visualization.histories import histories, history, one
from tests.visualization.test_descent import FAMILY


def test_largest_area_first() -> None:
    shown = founder_share(FAMILY)
    assert shown.names == ("Founder 1 (SGD)", "Founder 2 (SGD)", "Founder 0 (SGD)")
    assert shown.shares[2] == pytest.approx([2.75 / 3, 0, 0.25 / 3])
    assert not shown.has_rest
    assert shown.effective[0] == pytest.approx(3)


def test_the_rest_is_one() -> None:
    shown = founder_share(history(*(one(0, number, 1.0) for number in range(9))))
    assert len(shown.names) == 7
    assert shown.names[-1] == "3 others"
    assert shown.shares[0, -1] == pytest.approx(3 / 9)


@given(histories())
def test_shares_add_up(read: History) -> None:
    shown = founder_share(read)
    assert shown.shares.sum(axis=1) == pytest.approx(1.0)
    assert shown.shares.shape[1] == len(shown.names)


def test_drawing() -> None:
    figure = draw_founder_share(founder_share(FAMILY))
    areas = [trace for trace in figure.data if trace.stackgroup]
    assert sum(float(trace.y[1]) for trace in areas) == pytest.approx(100)
    lines = [trace for trace in figure.data if trace.name == "Effective number of founders"]
    assert {trace.yaxis for trace in lines} == {"y2"}
    assert [trace.showlegend for trace in lines] == [False, True]
    assert figure.layout.yaxis2.range == (0, 3)


def test_a_single_generation_can_be_seen() -> None:
    figure = draw_founder_share(founder_share(history(one(0, 0, 1.0), one(0, 1, 2.0))))
    assert all(list(trace.x) == [-0.25, 0.25] for trace in figure.data)
    assert [list(trace.y) for trace in figure.data if trace.stackgroup] == [[50.0, 50.0]] * 2
