"""A small study to look at: sixteen networks learn to tell three spirals apart."""

from __future__ import annotations

import math
import warnings

import optuna
import torch
from torch import Tensor, nn

import optuna_esgd as esgd

STUDY = "spirals"
N_WORKERS = 2
_POPULATION, _GENERATIONS, _CLASSES = 16, 12, 3


def make_spirals(n_points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points in the plane, (n_points, 2), and which of the arms each is on."""
    generator = torch.Generator().manual_seed(seed)
    arm = torch.randint(_CLASSES, (n_points,), generator=generator)
    radius = torch.rand(n_points, generator=generator).sqrt()
    angle = 2 * math.pi * (1.1 * radius + arm / _CLASSES)
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return points + 0.04 * torch.randn(n_points, 2, generator=generator), arm


def build_model() -> nn.Module:
    """A multilayer perceptron."""
    return nn.Sequential(
        nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, _CLASSES)
    )


def train(url: str) -> None:
    """Train until all generations are done; any number of processes may do so at a time."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    task = esgd.SupervisedTask(
        model=build_model,
        loss=nn.functional.cross_entropy,
        train=make_spirals(600, seed=0),
        validation=make_spirals(600, seed=1),
        batch_size=32,
    )
    study = optuna.create_study(
        sampler=esgd.ESGDSampler(_POPULATION, n_generations=_GENERATIONS, n_epochs=2, seed=3),
        storage=esgd.create_storage(url),
        study_name=STUDY,
        load_if_exists=True,
    )
    study.optimize(esgd.ESGDTrainer(task, cohort_size=4))
