"""One worker process of the multi-process tests: joins the study and trains its share."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import optuna
import torch

import optuna_esgd as esgd
from tests.trainer.studies import make_task

POPULATION, GENERATIONS = 8, 3


def run(
    url: str,
    model: str = "batch-norm",
    backend: Any = "auto",
    *,
    cohort_size: int = 2,
    n_trials: int | None = None,
) -> None:
    """Train until all generations are done."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    sampler = esgd.ESGDSampler(
        POPULATION, seed=5, n_epochs=2, n_generations=GENERATIONS, lease_seconds=10
    )
    study = optuna.create_study(
        storage=esgd.create_storage(url), study_name="shared", sampler=sampler, load_if_exists=True
    )
    study.optimize(
        esgd.ESGDTrainer(make_task(model), cohort_size=cohort_size, device="cpu", backend=backend),
        n_trials=n_trials,
    )


if __name__ == "__main__":
    run(*sys.argv[1:])
