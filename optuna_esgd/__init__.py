"""Evolutionary Stochastic Gradient Descent (Cui et al. 2018) for Optuna.

Trials form a population of neural networks that coevolve under different optimizers; weights,
fitness and lineage live in the SQL database the study lives in. See README.md for the four ways
in. Nothing heavy (torch, SQLAlchemy) is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> the module it lives in; loaded when first asked for.
_HOMES = {
    "Benchmark": "optuna_esgd.trainer.benchmark",
    "ESGDSampler": "optuna_esgd.sampler",
    "ESGDTrainer": "optuna_esgd.trainer.esgd_trainer",
    "Epoch": "optuna_esgd.trainer.task",
    "HeldOut": "optuna_esgd.trainer.held_out",
    "Recipe": "optuna_esgd.trainer.benchmark",
    "SupervisedTask": "optuna_esgd.trainer.supervised",
    "Task": "optuna_esgd.trainer.task",
    "ancestry": "optuna_esgd.trainer.lineage",
    "certificate": "optuna_esgd.trainer.lineage",
    "compare_results": "optuna_esgd.trainer.comparing_results",
    "create_storage": "optuna_esgd.store",
    "ensemble": "optuna_esgd.trainer.combining",
    "export": "optuna_esgd.trainer.results",
    "export_schedule": "optuna_esgd.trainer.schedule",
    "greedy_soup": "optuna_esgd.trainer.combining",
    "lineage": "optuna_esgd.trainer.lineage",
    "load_best": "optuna_esgd.trainer.results",
    "load_individual": "optuna_esgd.trainer.results",
    "narrow_learning_rates": "optuna_esgd.trainer.learning_rates",
    "pin": "optuna_esgd.trainer.results",
    "replay": "optuna_esgd.trainer.replay",
    "sgd_step": "optuna_esgd.trainer.sgd_step",
    "uniform_soup": "optuna_esgd.trainer.combining",
}

__all__ = [
    "Benchmark",
    "ESGDSampler",
    "ESGDTrainer",
    "Epoch",
    "HeldOut",
    "Recipe",
    "SupervisedTask",
    "Task",
    "__version__",
    "ancestry",
    "certificate",
    "compare_results",
    "create_storage",
    "ensemble",
    "export",
    "export_schedule",
    "greedy_soup",
    "lineage",
    "load_best",
    "load_individual",
    "narrow_learning_rates",
    "pin",
    "replay",
    "sgd_step",
    "uniform_soup",
]

if TYPE_CHECKING:
    from optuna_esgd.sampler import ESGDSampler as ESGDSampler
    from optuna_esgd.store import create_storage as create_storage
    from optuna_esgd.trainer.benchmark import Benchmark as Benchmark
    from optuna_esgd.trainer.benchmark import Recipe as Recipe
    from optuna_esgd.trainer.combining import ensemble as ensemble
    from optuna_esgd.trainer.combining import greedy_soup as greedy_soup
    from optuna_esgd.trainer.combining import uniform_soup as uniform_soup
    from optuna_esgd.trainer.comparing_results import compare_results as compare_results
    from optuna_esgd.trainer.esgd_trainer import ESGDTrainer as ESGDTrainer
    from optuna_esgd.trainer.held_out import HeldOut as HeldOut
    from optuna_esgd.trainer.learning_rates import narrow_learning_rates as narrow_learning_rates
    from optuna_esgd.trainer.lineage import ancestry as ancestry
    from optuna_esgd.trainer.lineage import certificate as certificate
    from optuna_esgd.trainer.lineage import lineage as lineage
    from optuna_esgd.trainer.replay import replay as replay
    from optuna_esgd.trainer.results import export as export
    from optuna_esgd.trainer.results import load_best as load_best
    from optuna_esgd.trainer.results import load_individual as load_individual
    from optuna_esgd.trainer.results import pin as pin
    from optuna_esgd.trainer.schedule import export_schedule as export_schedule
    from optuna_esgd.trainer.sgd_step import sgd_step as sgd_step
    from optuna_esgd.trainer.supervised import SupervisedTask as SupervisedTask
    from optuna_esgd.trainer.task import Epoch as Epoch
    from optuna_esgd.trainer.task import Task as Task


def __getattr__(name: str) -> object:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
