from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.schedules import MomentumAnnealingLR, heavy_ball_variance


def make_optimizer(kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> Any:
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.4}]
    return kind(groups, momentum=0.5) if kind is torch.optim.SGD else kind(groups)


def trace(scheduler: MomentumAnnealingLR, n_steps: int) -> list[tuple[float, float, float]]:
    """(learning rate of both groups, momentum) as each step is taken."""
    seen = []
    for _ in range(n_steps):
        groups = scheduler.optimizer.param_groups
        momenta = {g["momentum"] if "momentum" in g else g["betas"][0] for g in groups}
        assert len(momenta) == 1
        seen.append((groups[0]["lr"], groups[1]["lr"], momenta.pop()))
        scheduler.optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_momentum_is_held_then_falls_in_a_line(kind: type[torch.optim.Optimizer]) -> None:
    scheduler = MomentumAnnealingLR(make_optimizer(kind), 3, 3, 0.9, 0.3)
    seen = trace(scheduler, 8)
    assert [momentum for *_, momentum in seen] == pytest.approx(
        [0.9, 0.9, 0.9, 0.9, 0.7, 0.5, 0.3, 0.3]
    )
    assert {(first, second) for first, second, _ in seen} == {(0.1, 0.4)}


def test_step_size_falls_to_the_effective_step_of_the_low_momentum() -> None:
    seen = trace(MomentumAnnealingLR(make_optimizer(), 2, 2, 0.9, 0.5, mode="step_size"), 6)
    assert [first for first, *_ in seen] == pytest.approx([0.1, 0.1, 0.1, 1 / 30, 0.02, 0.02])
    assert [second for _, second, _ in seen] == pytest.approx([4 * first for first, *_ in seen])
    assert {momentum for *_, momentum in seen} == {0.9}
    rate, _, momentum = seen[-1]
    assert rate / (1 - momentum) == pytest.approx(0.1 / (1 - 0.5))


def test_both_fall() -> None:
    seen = trace(MomentumAnnealingLR(make_optimizer(), 1, mode="both"), 3)
    assert seen == [(0.1, 0.4, 0.9), *[(pytest.approx(0.01), pytest.approx(0.04), 0.0)] * 2]


@pytest.mark.parametrize("mode", ["momentum", "step_size", "both"])
def test_state_dict_goes_on_where_it_stopped(mode: Any) -> None:
    whole = trace(MomentumAnnealingLR(make_optimizer(), 3, 4, mode=mode), 10)
    first = MomentumAnnealingLR(make_optimizer(), 3, 4, mode=mode)
    begun = trace(first, 5)
    second = MomentumAnnealingLR(make_optimizer(), 99, 99)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert begun + trace(second, 5) == whole


def simulate_variance(lr: float, momentum: float) -> float:
    """Variance of x under gradient x + ξ, over many walkers and steps in the stationary state."""
    rng = np.random.default_rng(0)
    x, v, squares = np.zeros(20_000), np.zeros(20_000), []
    for step in range(1500):
        v = momentum * v - lr * (x + rng.standard_normal(len(x)))
        x = x + v
        if step >= 700 and step % 50 == 0:
            squares.append(np.mean(x**2))
    return float(np.mean(squares))


@pytest.mark.parametrize(
    ("mode", "expected"), [("momentum", 0.0256), ("step_size", 0.0250), ("both", 0.00251)]
)
def test_the_variance_near_the_optimum_falls(mode: Any, expected: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05, momentum=0.9)
    scheduler = MomentumAnnealingLR(optimizer, 1, mode=mode)
    group = optimizer.param_groups[0]
    assert heavy_ball_variance(group["lr"], group["momentum"], 1, 1) == pytest.approx(
        0.2533, abs=5e-5
    )
    optimizer.step()
    scheduler.step()
    settled = heavy_ball_variance(group["lr"], group["momentum"], 1, 1)
    assert settled == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("lr", "momentum"), [(0.05, 0.9), (0.05, 0.0), (0.5, 0.5)])
def test_the_variance_is_that_of_a_simulation(lr: float, momentum: float) -> None:
    expected = heavy_ball_variance(lr, momentum, 1, 1)
    assert simulate_variance(lr, momentum) == pytest.approx(expected, rel=0.03)


def test_annealing_momentum_at_a_constant_effective_step_gains_nothing() -> None:
    high, low = heavy_ball_variance(0.005, 0.9, 1, 1), heavy_ball_variance(0.05, 0.0, 1, 1)
    assert high == pytest.approx(low, rel=0.03)


@pytest.mark.parametrize(("momentum", "median"), [(0.0, 4197), (0.5, 1932), (0.9, 344)])
def test_momentum_escapes_a_saddle_sooner(momentum: float, median: int) -> None:
    rng = np.random.default_rng(1)
    x, v = np.zeros(4000), np.zeros(4000)
    escaped = np.zeros(4000)
    step = 0
    while np.count_nonzero(escaped) <= 2000:
        step += 1
        v = momentum * v - 1e-3 * (-x + rng.standard_normal(len(x)))
        x = np.where(escaped, 0.0, x + v)
        escaped[(np.abs(x) >= 1) & (escaped == 0)] = step
    assert step == pytest.approx(median, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"escape_steps": -1}, "escape_steps must be a whole number >= 0, got -1"),
        ({"escape_steps": 1.5}, "escape_steps must be a whole number >= 0, got 1.5"),
        ({"escape_steps": 1, "anneal_steps": -2}, "anneal_steps .* got -2"),
        ({"escape_steps": 1, "mu_escape": 1.0}, r"within \[0, 1\), got mu_escape=1.0"),
        ({"escape_steps": 1, "mu_converge": 0.95}, "mu_converge=0.95"),
        ({"escape_steps": 1, "mu_converge": math.nan}, "mu_converge=nan"),
        ({"escape_steps": 1, "mode": "lr"}, "'momentum', 'step_size' or 'both', got 'lr'"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        MomentumAnnealingLR(make_optimizer(), **arguments)


def test_refuses_an_optimizer_without_momentum() -> None:
    with pytest.raises(ConfigurationError, match="Adagrad has neither momentum nor betas"):
        MomentumAnnealingLR(make_optimizer(torch.optim.Adagrad), 1)


@pytest.mark.parametrize(("lr", "momentum"), [(0.0, 0.0), (2.0, 0.0), (0.1, 1.0)])
def test_there_is_no_variance_without_a_stationary_state(lr: float, momentum: float) -> None:
    with pytest.raises(ConfigurationError, match="settles only"):
        heavy_ball_variance(lr, momentum, 1, 1)
