"""One worker process of the asynchronous tests; some networks take four times as long."""

from __future__ import annotations

import sys
import time
import warnings

import optuna
import torch
from torch import nn

import optuna_esgd as esgd
from tests.trainer.models import MODELS, examples

POPULATION, GENERATIONS = 6, 4
TRAIN, VALIDATION = examples("mlp", 0), examples("mlp", 1)


class Uneven(esgd.Task):
    def build_model(self) -> nn.Module:
        return MODELS["mlp"][0]()

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        time.sleep(0.02 * (1 + (epoch.individual + epoch.generation) % 4))
        order = torch.randperm(len(TRAIN[0]), generator=epoch.generator())
        for rows in order.split(8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(TRAIN[0][rows]), TRAIN[1][rows]).backward()
            optimizer.step()

    def fitness(self, model: nn.Module) -> float:
        return nn.functional.cross_entropy(model(VALIDATION[0]), VALIDATION[1]).item()


def make_sampler() -> esgd.ESGDSampler:
    return esgd.ESGDSampler(
        POPULATION,
        seed=5,
        n_epochs=2,
        n_generations=GENERATIONS,
        asynchronous=True,
        lease_seconds=3,
    )


def run(url: str) -> None:
    """Train until every place has done all its generations."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    study = optuna.create_study(
        storage=esgd.create_storage(url),
        study_name="uneven",
        sampler=make_sampler(),
        load_if_exists=True,
    )
    study.optimize(esgd.ESGDTrainer(Uneven(), device="cpu"))


if __name__ == "__main__":
    run(sys.argv[1])
