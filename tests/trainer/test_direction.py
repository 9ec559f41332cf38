"""A study that goes the wrong way is refused, or warned of where only a name tells."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.trainer.direction import is_better_high
from tests.trainer.studies import make_study, make_task


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def smoothness(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(outputs.square().mean() + targets.float().mean())


class Loss:
    """A metric in something that is called otherwise."""

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return accuracy(outputs, targets)


@pytest.mark.parametrize(
    ("metric", "direction", "message"),
    [
        (accuracy, "minimize", "The study minimises accuracy."),
        (partial(accuracy), "minimize", "direction='maximize'"),
        (accuracy, "maximize", ""),
        (Loss().accuracy, "maximize", ""),
        (nn.functional.cross_entropy, "maximize", "The study maximises cross_entropy."),
        (smoothness, "minimize", ""),
        (smoothness, "maximize", ""),
    ],
)
def test_the_wrong_way_is_warned_of(
    metric: Callable[..., Tensor],
    direction: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = esgd.ESGDTrainer(make_task(metric=metric), device="cpu")
    with caplog.at_level(logging.WARNING, logger="optuna_esgd"):
        trainer.open(make_study(direction=direction))
    said = [record.getMessage() for record in caplog.records if "way" in record.getMessage()]
    assert len(said) == bool(message)
    assert message in " ".join(said)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", True),
        ("top5_accuracy", True),
        ("BinaryAccuracy", True),
        ("multiclass_f1", True),
        ("F1", True),
        ("cross_entropy", False),
        ("MSELoss", False),
        ("accuracy_loss", False),
        ("word_error", False),
        ("<lambda>", None),
        ("score", None),
        ("recalling", None),
        ("neg_mean_squared_error", None),
        ("NegLogLoss", None),
        ("inverse_perplexity", None),
        ("half_precision", None),
    ],
)
def test_what_a_name_says(name: str, expected: bool | None) -> None:
    assert is_better_high(name) is expected


def test_models_train_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """It is a warning, said once: to who makes the population, not to who goes on with it."""
    study = make_study(4)
    with caplog.at_level(logging.WARNING, logger="optuna_esgd"):
        for _ in range(2):
            study.optimize(esgd.ESGDTrainer(make_task(metric=accuracy), device="cpu"), n_trials=4)
    assert len(study.trials) == 8
    assert sum("wrong way" in record.getMessage() for record in caplog.records) == 1
    assert torch.isfinite(torch.tensor([trial.value for trial in study.trials])).all()
