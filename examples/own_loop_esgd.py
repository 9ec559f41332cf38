"""The same loop as a Task of a population. Compare with own_loop_plain.py."""

import optuna
import torch
from own_loop_plain import build_model, train_epoch, validation_error
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.species import SGD, Adam


class NoisyRegression(esgd.Task):
    """A network trained with a loop of its own."""

    def build_model(self) -> nn.Module:
        return build_model()

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        train_epoch(model, optimizer, epoch.generator(), noise=0.1)

    def fitness(self, model: nn.Module) -> float:
        return validation_error(model)


study = optuna.create_study(sampler=esgd.ESGDSampler(population_size=8, n_epochs=4, seed=0))
trainer = esgd.ESGDTrainer(NoisyRegression(), species=[Adam(lr=(1e-4, 3e-2)), SGD()])
study.optimize(trainer, n_trials=8 * 6)  # 6 generations of 4 epochs each
print(f"validation error {study.best_value:.4f}")
