"""What is said of optimizers that fail."""

from __future__ import annotations

import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.species import Species
from tests.trainer.studies import make_study, make_task


class Raising(torch.optim.SGD):
    """Never makes a step."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        raise ValueError("not today")


def test_the_traceback_is_shown_once(caplog: pytest.LogCaptureFixture) -> None:
    study = make_study(n_epochs=2)
    species = [Species(Raising, name="Raising once", lr=0.1)]
    study.optimize(esgd.ESGDTrainer(make_task(), species=species), n_trials=4)
    said = [one for one in caplog.records if "'Raising once' cannot go on" in one.getMessage()]
    assert len(said) > 4
    assert [one.exc_info is not None for one in said] == [True] + [False] * (len(said) - 1)
    assert all("not today" in one.getMessage() for one in said)
