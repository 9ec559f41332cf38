"""The smallest benchmark that every arm can be run on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import optuna_esgd as esgd

N_BATCHES = 3


def build(seed: int = 0, **settings: Any) -> esgd.Benchmark:
    """A line through 12 points; 3 individuals, 2 generations of 2 epochs of 3 mini-batches."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(24, 1, generator=generator)
    targets = 2 * inputs + 0.1 * torch.randn(24, 1, generator=generator)
    task = esgd.SupervisedTask(
        model=lambda: nn.Linear(1, 1),
        loss=nn.functional.mse_loss,
        train=(inputs[:12], targets[:12]),
        validation=(inputs[12:18], targets[12:18]),
        batch_size=4,
        **settings,
    )
    return esgd.Benchmark(
        task=task,
        test=esgd.HeldOut(
            task,
            (inputs[18:], targets[18:]),
            {"squared": nn.functional.mse_loss, "absolute": nn.functional.l1_loss},
        ),
        recipe=esgd.Recipe(optimizer=torch.optim.SGD, settings={"lr": 0.1}),
        population_size=3,
        n_epochs=2,
        n_generations=2,
    )


def build_but_the_first(seed: int) -> esgd.Benchmark:
    """One of the seeds cannot be run."""
    if seed == 0:
        raise RuntimeError("There is no first seed.")
    return build(seed)
