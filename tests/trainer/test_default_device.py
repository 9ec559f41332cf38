"""torch's default device may be another than the one that trains: here one without numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import optuna_esgd as esgd
from optuna_esgd.engine.configuration import Backend
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task

ELSEWHERE = torch.device("meta")
TRAIN, VALIDATION = examples("dropout", 0), examples("dropout", 1)


def build() -> nn.Module:
    with torch.device("cpu"):
        return MODELS["dropout"][0]()


def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*items, strict=True)
    return torch.stack(inputs), torch.stack(targets)


def values(backend: Backend = "rows", **arguments: Any) -> list[float]:
    """Fitness of everybody, on a default device that is chosen by the caller."""
    study = make_study(n_generations=2, storage=esgd.create_storage("sqlite://"))
    trainer = esgd.ESGDTrainer(
        make_task(model=build, **{"train": TRAIN, "validation": VALIDATION, **arguments}),
        backend=backend,
        species=["SGD", "Adam", "EntropySGD"],
    )
    study.optimize(trainer, n_trials=8)
    assert esgd.replay(study, trainer).digest
    best = esgd.load_best(study, build())
    assert all(one.device.type == "cpu" for one in best.parameters())
    return [trial.value for trial in study.trials if trial.value is not None]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"backend": "batched"},
        {"backend": "native"},
        {"batches": "oddball"},
        {"schedule": "mutual_information"},
        {"train": DataLoader(TensorDataset(*TRAIN), collate_fn=collate)},
    ],
    ids=["rows", "batched", "native", "oddball", "mutual_information", "dataset"],
)
def test_results_are_the_same_whatever_the_default_device(arguments: dict[str, Any]) -> None:
    expected = values(**arguments)
    with ELSEWHERE:
        assert values(**arguments) == expected
