"""Many runs of conditioned mutation together follow normalised gradient descent."""

from __future__ import annotations

import math

import pytest
import torch

from optuna_esgd.optim.conditioned_mutation import ConditionedMutationRule, sigma_for_lr
from optuna_esgd.optim.rule import Draws, Part, run_step

WIDTH, LR, N_RUNS = 40, 1e-4, 10


class Network:
    """1-40-1, tanh, mean squared error on sin(πx): losses of many rows of weights."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.x = torch.linspace(-1, 1, 101)
        self.y = torch.sin(math.pi * self.x)

    def losses(self) -> torch.Tensor:
        first, bias, second = self.rows[:, : 3 * WIDTH].split(WIDTH, dim=1)
        hidden = torch.tanh(first.unsqueeze(2) * self.x + bias.unsqueeze(2))
        outputs = torch.einsum("rh,rhx->rx", second, hidden) + self.rows[:, -1:]
        return ((outputs - self.y) ** 2).mean(1, keepdim=True)

    def gradients(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        raise AssertionError("it wants no gradients")

    def advance(self) -> None:
        raise AssertionError("full batches")


@pytest.mark.slow
def test_the_mean_loss_is_that_of_normalised_gradient_descent() -> None:
    start = torch.randn(1, 3 * WIDTH + 1, generator=torch.Generator().manual_seed(0)) / 3
    descent = start.clone().requires_grad_()
    rows = start.repeat(N_RUNS, 1)
    columns = {
        "sigma": torch.full((N_RUNS, 1), sigma_for_lr(LR), dtype=torch.float64),
        "beta": torch.full((N_RUNS, 1), math.inf, dtype=torch.float64),
    }
    one, many = Network(descent), Network(rows)
    expected = math.inf
    for step in range(10_000):
        (gradient,) = torch.autograd.grad(one.losses().sum(), descent)
        with torch.no_grad():
            descent -= LR * gradient / gradient.norm()
        keys = torch.arange(N_RUNS).unsqueeze(1) * 100_000 + step
        draws = Draws(keys, torch.arange(rows.shape[1]))
        run_step(ConditionedMutationRule(), [Part(rows, {}, columns, draws)], many)
        if step % 1000 == 999:
            expected = one.losses().item()
            assert many.losses().mean().item() == pytest.approx(expected, rel=0.03), step
    assert expected < 0.7 * Network(start).losses().item()
