"""The contenders of ``end_to_end`` run, and what they take is compared."""

from __future__ import annotations

import pytest

from tests.benchmarks.digits import BATCH_SIZE, N_TRAIN, read_digits
from tests.benchmarks.end_to_end import Size, Spent, measure


def test_an_epoch_is_the_same_for_everybody() -> None:
    (inputs, targets), (held_out, _) = read_digits()
    assert len(inputs) == len(targets) == N_TRAIN
    assert N_TRAIN % BATCH_SIZE == 0, "or else contenders may drop the last batch, or not"
    assert len(held_out) == 389


def test_reading_weights_is_not_training() -> None:
    spent = Spent()
    read = spent.adding(lambda: None, -1.0)
    read()
    assert spent.seconds == 0, "nobody was training"
    spent.adding(read, 1.0)()
    assert spent.seconds >= 0


@pytest.mark.slow
def test_a_small_run_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    report = measure(Size(n_individuals=2, n_epochs=2), n_rounds=1, n_cold_rounds=0)
    assert "Ray Tune is left out" in capsys.readouterr().out
    values = {row.measured: row.value for row in report.rows}
    assert values["ours / its training alone"] > 1
    assert values["plain loop / ours"] > 0
