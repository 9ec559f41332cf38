"""Trainers each of which has one illness, for ``optuna-esgd doctor``."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.species import SGD
from tests.doctor.healthy import (
    N_CLASSES,
    N_FEATURES,
    OwnLoop,
    build_model,
    build_normalised,
    examples,
    make_task,
)

sampler = esgd.ESGDSampler(population_size=4, n_epochs=2, n_generations=3, seed=0)
_TINY = 1e-7


class DrawsFromItsOwn(OwnLoop):
    """From a generator that nobody else can seed."""

    def fitness(self, model: nn.Module) -> float:
        return super().fitness(model) + 0.1 * float(np.random.default_rng().random())


class DrawsALittleFromItsOwn(OwnLoop):
    def fitness(self, model: nn.Module) -> float:
        return super().fitness(model) * (1 + _TINY * random.Random().random())


class DrawsFromNumpy(OwnLoop):
    def fitness(self, model: nn.Module) -> float:
        return super().fitness(model) + 0.1 * float(np.random.rand())


class DrawsFromPython(OwnLoop):
    def fitness(self, model: nn.Module) -> float:
        return super().fitness(model) + 0.1 * random.random()


class CountsEvaluations(OwnLoop):
    n_evaluations = 0

    def fitness(self, model: nn.Module) -> float:
        self.n_evaluations += 1
        return super().fitness(model) + 0.01 * self.n_evaluations


class RemembersTraining(OwnLoop):
    """Evaluates on what it has trained on last."""

    n_epochs = 0

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        self.n_epochs += 1
        super().train_epoch(model, optimizer, epoch)

    def fitness(self, model: nn.Module) -> float:
        inputs, targets = examples(200, seed=self.n_epochs)
        return nn.functional.cross_entropy(model(inputs), targets).item()


class EvaluatesInTraining(OwnLoop):
    def build_model(self) -> nn.Module:
        return build_normalised()

    def fitness(self, model: nn.Module) -> float:
        model.train()
        return super().fitness(model)


class ShufflesByItsOwn(OwnLoop):
    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        inputs, targets = examples(64, seed=0)
        for rows in np.array_split(np.random.default_rng().permutation(64), 8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()


class CalibratesAtRandom(OwnLoop):
    def calibrate(self, model: nn.Module) -> None:
        inputs, _ = examples(32, seed=int(np.random.default_rng().integers(1000)))
        model.train()
        with torch.no_grad():
            model(inputs)

    def build_model(self) -> nn.Module:
        return build_normalised()


class NeverSteps(OwnLoop):
    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        del model, optimizer, epoch


class DropsOut(nn.Module):
    """Forgets to say that dropout is for training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = build_model()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(nn.functional.dropout(inputs, 0.5))


class StaysInTraining(nn.Dropout):
    """Dropout at all times, as for estimates of uncertainty."""

    def train(self, mode: bool = True) -> StaysInTraining:
        del mode
        return super().train(True)


class WarmsUp(nn.Module):
    """Counts its calls in Python: an output scale grows with them that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(N_FEATURES, N_CLASSES)
        self.n_calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.n_calls += 1
        return self.body(inputs) * (1 + min(self.n_calls, 100) / 5)


class OwnLoopOf(OwnLoop):
    def __init__(self, model: Callable[[], nn.Module]) -> None:
        self._model = model

    def build_model(self) -> nn.Module:
        return self._model()


class CountsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = build_model()
        self.n_calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.n_calls += 1
        return self.body(inputs)


def _trainer(make: Callable[[], esgd.Task], **changes: object) -> Callable[[], esgd.ESGDTrainer]:
    return lambda: esgd.ESGDTrainer(make(), device="cpu", **changes)  # type: ignore[arg-type]


def _with_nan() -> esgd.Task:
    inputs, targets = examples(64, seed=0)
    held, held_targets = examples(200, seed=1)
    return make_task(
        train=(inputs * torch.nan, targets), validation=(held * torch.nan, held_targets)
    )


def _leaking() -> esgd.Task:
    inputs, targets = examples(64, seed=0)
    held, held_targets = examples(36, seed=1)
    leaked = torch.cat([held, inputs[:4]]), torch.cat([held_targets, targets[:4]])
    return make_task(validation=leaked)


def _f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of class 0: no mean over examples."""
    is_said, is_so = outputs.argmax(1) == 0, targets == 0
    n_right = (is_said & is_so).sum()
    return 1 - 2 * n_right / (is_said.sum() + is_so.sum()).clamp(min=1)


draws_from_its_own = _trainer(DrawsFromItsOwn)
draws_a_little_from_its_own = _trainer(DrawsALittleFromItsOwn)
draws_from_numpy = _trainer(DrawsFromNumpy)
draws_from_python = _trainer(DrawsFromPython)
counts_evaluations = _trainer(CountsEvaluations)
remembers_training = _trainer(RemembersTraining)
evaluates_in_training = _trainer(EvaluatesInTraining)
shuffles_by_its_own = _trainer(ShufflesByItsOwn)
calibrates_at_random = _trainer(CalibratesAtRandom)
never_steps = _trainer(NeverSteps)
drops_out = _trainer(lambda: make_task(model=DropsOut))
drops_out_by_mode = _trainer(
    lambda: make_task(
        model=lambda: nn.Sequential(
            nn.Linear(N_FEATURES, 8), StaysInTraining(0.5), nn.Linear(8, N_CLASSES)
        )
    )
)
warms_up = _trainer(lambda: make_task(model=WarmsUp))
warms_up_alone = _trainer(lambda: OwnLoopOf(WarmsUp))
counts_calls = _trainer(lambda: make_task(model=CountsCalls))
with_nan = _trainer(_with_nan)
too_fast = _trainer(
    lambda: make_task(loss=lambda outputs, targets: outputs.pow(4).mean()),
    species=[SGD(lr=(9, 10))],
)
leaking = _trainer(_leaking)
few_examples = _trainer(lambda: make_task(validation=examples(3, seed=1)))
f1 = _trainer(lambda: make_task(metric=_f1))
