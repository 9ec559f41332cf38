"""Tasks and studies for the trainer's tests."""

from __future__ import annotations

from typing import Any

import optuna
from torch import nn

import optuna_esgd as esgd
from tests.trainer.models import MODELS, examples

optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_task(name: str = "mlp", **arguments: Any) -> esgd.SupervisedTask:
    return esgd.SupervisedTask(
        **{
            "model": MODELS[name][0],
            "loss": nn.functional.cross_entropy,
            "train": examples(name, 0),
            "validation": examples(name, 1),
            "batch_size": 8,
            **arguments,
        }
    )


def make_study(
    population_size: int = 4,
    *,
    storage: Any = None,
    direction: str = "minimize",
    name: str = "s",
    **settings: Any,
) -> optuna.Study:
    sampler = esgd.ESGDSampler(population_size, **{"seed": 1, "n_epochs": 2, **settings})
    return optuna.create_study(
        sampler=sampler, storage=storage, direction=direction, study_name=name, load_if_exists=True
    )
