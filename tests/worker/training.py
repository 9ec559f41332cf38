"""A file as users write it for ``optuna-esgd run``: a trainer and its sampler."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import nn

import optuna_esgd as esgd

torch.set_num_threads(1)


class Slow(esgd.Task):
    """A tiny task whose epochs take as long as the variable SLOW_SECONDS says."""

    def build_model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def train_epoch(self, model: nn.Module, optimizer: Any, epoch: esgd.Epoch) -> None:
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        if os.environ.get("FAIL_IN_GENERATION") == str(epoch.generation):
            raise ValueError("out of cheese")
        for _ in range(4):
            inputs = torch.randn(8, 4)
            optimizer.zero_grad()
            (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()

    def fitness(self, model: nn.Module) -> float:
        inputs = torch.linspace(-1, 1, 32).reshape(8, 4)
        return float((model(inputs) - inputs.sum(1, keepdim=True)).square().mean())


def make_trainer() -> esgd.ESGDTrainer:
    return esgd.ESGDTrainer(Slow(), device="cpu")


sampler = esgd.ESGDSampler(4, seed=3, n_epochs=3, n_generations=3, lease_seconds=5)
trainer = make_trainer()
examples = (torch.linspace(-1, 1, 32).reshape(8, 4), torch.linspace(0, 1, 8).reshape(8, 1))
supervised = esgd.ESGDTrainer(
    esgd.SupervisedTask(
        model=lambda: nn.Linear(4, 1),
        loss=nn.functional.mse_loss,
        train=examples,
        validation=examples,
    ),
    device="cpu",
)
nothing = None
