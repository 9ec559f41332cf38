"""Patients made from the files beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna_esgd.doctor.patient import Patient, prepare
from optuna_esgd.sampler import ESGDSampler
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from tests.doctor import healthy, ill

HEALTHY, ILL = Path(healthy.__file__), Path(ill.__file__)
SETTINGS: Mapping[str, Any] = {"population_size": 4, "n_epochs": 2, "n_generations": 3, "seed": 0}


def admit(trainer: ESGDTrainer, *, n_workers: int = 1, **changes: Any) -> Patient:
    """Prepare a patient without a word."""
    return prepare(
        trainer,
        ESGDSampler(**{**SETTINGS, **changes}),
        direction="minimize",
        n_workers=n_workers,
        say=lambda _text: None,
    )
