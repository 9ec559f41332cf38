"""Closures of plain PyTorch for the tests of the optimizers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def closure_of(
    optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]
) -> Callable[[], Tensor]:
    """What PyTorch's documentation tells people to write."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def parameter(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def path(
    optimizer: torch.optim.Optimizer, x: Tensor, n_steps: int, loss: Callable[[Tensor], Tensor]
) -> Tensor:
    """(steps, d) where x is after each step."""
    closure = closure_of(optimizer, lambda: loss(x))
    points = []
    for _ in range(n_steps):
        optimizer.step(closure)
        points.append(x.detach().clone())
    return torch.stack(points)


def bowl(x: Tensor) -> Tensor:
    return (x * x).sum() / 2


def rate(points: Tensor, n_periods: int = 20) -> float:
    """The factor by which |x| changes per step, from the largest of two windows."""
    sizes = points.norm(dim=1) if points.shape[1] > 1 else points.abs()[:, 0]
    n = len(sizes) - 2 * n_periods
    return float((sizes[-n_periods:].max() / sizes[n_periods : 2 * n_periods].max()) ** (1 / n))
