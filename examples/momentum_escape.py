"""Momentum leaves a saddle point sooner; annealing it restores the noise floor.

2000 walkers start on the saddle of f(x) = x⁴/4 - x²/2, with noisy gradients, and end in its
minima at ±1. Three ways: without momentum, with momentum 0.9, and with momentum that
``MomentumAnnealingLR`` takes back once it has done its work.
"""

from __future__ import annotations

import torch
from figure_file import figure_path, write_lines
from torch.optim.lr_scheduler import LRScheduler

from optuna_esgd.schedules import MomentumAnnealingLR, heavy_ball_variance

LR, NOISE, STEPS, WALKERS = 0.003, 1.0, 4000, 2000
CURVATURE = 2.0  # of f at its minima


def walk(momentum: float, anneal_after: int | None = None) -> tuple[list[float], int, float]:
    """Mean loss per step, median steps to |x| = 0.5, and variance around the minima."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(WALKERS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=LR, momentum=momentum)
    schedule: LRScheduler | None = None
    if anneal_after is not None:
        schedule = MomentumAnnealingLR(optimizer, anneal_after, anneal_after // 2, momentum)
    losses, escaped, spread = [], torch.full((WALKERS,), STEPS), []
    for step in range(STEPS):
        position = x.detach()
        losses.append(float((position**4 / 4 - position**2 / 2).mean()) + 0.25)
        x.grad = position**3 - position
        x.grad += NOISE * torch.randn(WALKERS, generator=generator, dtype=torch.float64)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        escaped[(x.detach().abs() >= 0.5) & (escaped == STEPS)] = step + 1
        if step >= STEPS - 400 and step % 20 == 0:
            spread.append(float(x.detach().abs().var()))
    return losses, int(escaped.median()), sum(spread) / len(spread)


def main() -> None:
    """Walk three times, report, draw."""
    path = figure_path("momentum_escape.html", __doc__)
    plain, plain_escape, plain_floor = walk(0.0)
    heavy, heavy_escape, heavy_floor = walk(0.9)
    annealed, annealed_escape, annealed_floor = walk(0.9, anneal_after=1000)
    print(f"median steps to escape: {plain_escape} without momentum, {heavy_escape} with 0.9")
    print(f"annealed: escapes after {annealed_escape}")
    print(
        f"variance at the end: {plain_floor:.5f} without, {heavy_floor:.5f} with, "
        f"{annealed_floor:.5f} annealed"
    )
    low, high = (heavy_ball_variance(LR, mu, CURVATURE, NOISE) for mu in (0.0, 0.9))
    print(f"in theory: {low:.5f} without, {high:.5f} with")
    lines = {"no momentum": plain, "momentum 0.9": heavy, "0.9, annealed": annealed}
    title = "Momentum leaves the saddle, annealing restores the floor"
    write_lines(path, lines, title=title, x="step", y="loss above the minimum", log=True)


if __name__ == "__main__":
    main()
