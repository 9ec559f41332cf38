"""Who worked when."""

from __future__ import annotations

import pytest

from optuna_esgd.engine.individual import SlotKey, Span
from optuna_esgd.visualization.worker_timeline import draw_worker_timeline, worker_timeline
from tests.visualization.histories import history, one

PEOPLE = (one(0, 0, 1.0, species="Adam"), one(0, 1, 1.0, species="Adam"), one(0, 2, 1.0))


def test_kinds_of_work() -> None:
    read = history(
        *PEOPLE,
        one(1, 0, None, 0),
        spans=[
            Span(SlotKey(0, 0, 0), (0, 1), "a", 100.0, 103.0),
            Span(SlotKey(0, 0, 1), (1, 2), "b", 101.0, 102.0),
            Span(SlotKey(0, 1, 0), (0, 1), "a", 104.0, 105.0),
            Span(SlotKey(1, 0, 0), (0,), "b", 106.0, None),
        ],
    )
    shown = worker_timeline(read)
    assert shown.workers == ("a", "b")
    by_name = {work.style.name: work for work in shown.works}
    assert sorted(by_name) == ["Adam", "Scoring offspring", "Several species", "Unfinished"]
    assert by_name["Adam"].start.tolist() == [0.0]
    assert by_name["Adam"].length.tolist() == [3.0]
    assert by_name["Several species"].worker.tolist() == [1]
    assert by_name["Unfinished"].length.tolist() == [0.0]  # nothing later is known


@pytest.mark.parametrize(
    ("seconds", "unit", "expected"),
    [(90.0, "Seconds", 90.0), (600.0, "Minutes", 10.0), (9000.0, "Hours", 2.5)],
)
def test_drawing(seconds: float, unit: str, expected: float) -> None:
    span = Span(SlotKey(0, 0, 0), (0,), "host:1", 50.0, 50.0 + seconds)
    figure = draw_worker_timeline(worker_timeline(history(*PEOPLE, spans=[span])))
    (bar,) = figure.data
    assert bar.orientation == "h"
    assert bar.x.tolist() == [expected]
    assert bar.base.tolist() == [0.0]
    assert figure.layout.xaxis.title.text == f"{unit} Since the First Claim"
    assert figure.layout.yaxis.ticktext == ("host:1",)
