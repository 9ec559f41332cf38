"""Back-offs by species and generation."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given

from optuna_esgd.visualization.backoff_rate import backoff_rate, draw_backoff_rate
from optuna_esgd.visualization.history import History
from tests.visualization.histories import histories, history, one


def pair(back_off: str) -> History:
    return history(
        one(0, 0, 1.0, species="Adam", n_back_offs=1),
        one(0, 1, 1.0, n_epochs=4),
        one(1, 0, 1.0, 0, n_back_offs=1),
        one(1, 1, 1.0, 0),
        back_off=back_off,
    )


def test_rates_per_epoch_and_per_step() -> None:
    step, best = backoff_rate(pair("step")), backoff_rate(pair("best"))
    assert step.rate[:, 0].tolist() == [0.5, 0.0]
    assert step.rate[1, 1] == 0.25
    assert best.rate[:, 0].tolist() == [1.0, 0.0]
    assert best.rate[1, 1] == 0.5
    assert math.isnan(step.rate[0, 1])  # nobody of that species


@given(histories())
def test_rates_are_missing_or_not_negative(read: History) -> None:
    rate = backoff_rate(read).rate
    assert np.all((rate >= 0) | np.isnan(rate))


def test_drawing() -> None:
    figure = draw_backoff_rate(backoff_rate(pair("step")))
    (cells,) = figure.data
    assert (cells.zmin, cells.zmax) == (0, 100)
    assert cells.colorscale[0][1] == "#00224e"  # Cividis
    assert list(cells.y) == ["Adam", "SGD"]
    assert figure.layout.title.text == "Back-Off Rate (per Epoch)"
    assert draw_backoff_rate(backoff_rate(pair("best"))).layout.title.text.endswith("SGD Step)")
