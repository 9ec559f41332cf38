"""The learning-rate range test: between which bounds does training work at all?

After Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186 (2017),
section 3.3, as Vasudevan, Entropy 22(5):560 (2020) uses it for the bounds of a decaying rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optuna_esgd.errors import ConfigurationError


@dataclass(frozen=True)
class RangeTest:
    """What a range test has seen.

    Attributes:
        rates: Learning rates tried, ascending.
        losses: The smoothed loss after training with each.
        lr_min: The lowest rate of the stretch that ends at ``lr_max`` along which the loss fell.
        lr_max: The rate at which the smoothed loss was lowest: beyond it training destabilises.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    lr_min: float
    lr_max: float


def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
    *,
    lr_low: float = 1e-6,
    lr_high: float = 10.0,
    n_steps: int = 100,
    smoothing: float = 0.9,
    divergence: float = 4.0,
) -> RangeTest:
    """Train with a learning rate that grows geometrically, and watch the loss.

    Stops when the smoothed loss exceeds ``divergence`` times its minimum or is no longer finite.
    Model and optimizer are as before afterwards, bit by bit.

    Args:
        model: What is trained.
        optimizer: Trains it; all of its groups get the same learning rate. Steps with a closure.
        loss: Computes the loss of the next mini-batch at the model's current weights. An optimizer
            that asks several times per step sees as many mini-batches.
        lr_low: First learning rate, above 0.
        lr_high: Last one, above ``lr_low``.
        n_steps: Steps from one to the other, at least 2.
        smoothing: Weight of the past in the running mean of the loss, in [0, 1).
        divergence: Above 1.

    Raises:
        ConfigurationError: An argument is out of range, or the very first loss is not finite.
    """
    _check(lr_low, lr_high, n_steps, smoothing, divergence)
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(optimizer.state_dict())
    try:
        rates, losses = _sweep(
            optimizer,
            loss,
            rates=[lr_low * (lr_high / lr_low) ** (i / (n_steps - 1)) for i in range(n_steps)],
            smoothing=smoothing,
            divergence=divergence,
        )
    finally:
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        optimizer.zero_grad()
    if not rates:
        raise ConfigurationError(
            "The loss was not finite at the lowest learning rate already: the model has diverged "
            "or lr_low is too high."
        )
    lowest = min(range(len(losses)), key=losses.__getitem__)
    return RangeTest(
        rates=tuple(rates),
        losses=tuple(losses),
        lr_min=rates[_first_of_descent(losses, lowest)],
        lr_max=rates[lowest],
    )


def _sweep(
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
    *,
    rates: list[float],
    smoothing: float,
    divergence: float,
) -> tuple[list[float], list[float]]:
    """Train through the rates; the loss beside a rate is the first one after training with it."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = loss()
            value.backward()
        return value.detach()

    mean, tried, losses = 0.0, [], []
    rate: float | None = None
    for step, next_rate in enumerate([*rates, None]):
        if next_rate is None:
            value = float(loss().detach())
        else:
            for group in optimizer.param_groups:
                group["lr"] = next_rate
            value = float(optimizer.step(closure))  # type: ignore[arg-type]
        mean = smoothing * mean + (1 - smoothing) * value
        smoothed = mean / (1 - smoothing ** (step + 1))
        if not math.isfinite(smoothed):
            break
        if rate is not None:
            tried.append(rate)
            losses.append(smoothed)
            if smoothed > divergence * min(losses):
                break
        rate = next_rate
    return tried, losses


def _first_of_descent(losses: list[float], lowest: int) -> int:
    """Where the loss had fallen by a twentieth of its whole descent for the first time."""
    start = max(losses[: lowest + 1])
    level = start - 0.05 * (start - losses[lowest])
    above = [index for index in range(lowest + 1) if losses[index] >= level]
    return min(above[-1] + 1, lowest)


def _check(
    lr_low: float, lr_high: float, n_steps: int, smoothing: float, divergence: float
) -> None:
    if not 0 < lr_low < lr_high < math.inf:
        raise ConfigurationError(
            f"Learning rates need 0 < lr_low < lr_high, got [{lr_low}, {lr_high}]."
        )
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 2:
        raise ConfigurationError(f"n_steps must be a whole number >= 2, got {n_steps!r}.")
    if not 0 <= smoothing < 1:
        raise ConfigurationError(f"smoothing must be in [0, 1), got {smoothing}.")
    if not divergence > 1:
        raise ConfigurationError(f"divergence must be above 1, got {divergence}.")
