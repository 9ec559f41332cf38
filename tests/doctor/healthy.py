"""Trainers with which nothing is wrong, for ``optuna-esgd doctor``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import optuna_esgd as esgd

N_CLASSES, N_FEATURES = 3, 6
sampler = esgd.ESGDSampler(population_size=4, n_epochs=2, n_generations=3, seed=0)


def examples(n_examples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n_examples, N_FEATURES, generator=generator)
    return inputs, inputs[:, :N_CLASSES].argmax(1)


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(N_FEATURES, 8), nn.Tanh(), nn.Linear(8, N_CLASSES))


def build_normalised() -> nn.Module:
    return nn.Sequential(
        nn.Linear(N_FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, N_CLASSES)
    )


def make_task(**changes: object) -> esgd.SupervisedTask:
    settings = {
        "model": build_model,
        "loss": nn.functional.cross_entropy,
        "train": examples(64, seed=0),
        "validation": examples(200, seed=1),
        "batch_size": 8,
    }
    return esgd.SupervisedTask(**{**settings, **changes})  # type: ignore[arg-type]


class OwnLoop(esgd.Task):
    """The same with a loop of its own."""

    def build_model(self) -> nn.Module:
        return build_model()

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        inputs, targets = examples(64, seed=0)
        for rows in torch.randperm(64, generator=epoch.generator()).split(8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()

    def fitness(self, model: nn.Module) -> float:
        inputs, targets = examples(200, seed=1)
        return nn.functional.cross_entropy(model(inputs), targets).item()


trainer = esgd.ESGDTrainer(make_task(), device="cpu")


def normalised() -> esgd.ESGDTrainer:
    return esgd.ESGDTrainer(make_task(model=build_normalised), device="cpu")


def own_loop() -> esgd.ESGDTrainer:
    return esgd.ESGDTrainer(OwnLoop(), device="cpu")
