"""Conditioned mutation is gradient descent on the mean; what is rejected leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch

from optuna_esgd.optim import ConditionedMutation, sigma_for_lr
from optuna_esgd.optim.conditioned_mutation import ConditionedMutationRule
from optuna_esgd.optim.rule import Draws, Part, run_step
from tests.optim.functions import bowl, closure_of, parameter

N, SLOPE, SIGMA = 10, 2.0, 0.1


class Linear:
    """U = g·θ, |g| = 2, for many rows at once."""

    def __init__(self, rows: torch.Tensor, gradient: torch.Tensor) -> None:
        self.rows, self.gradient = rows, gradient

    def losses(self) -> torch.Tensor:
        return (self.rows @ self.gradient).unsqueeze(1)

    def gradients(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        raise AssertionError("it wants no gradients")

    def advance(self) -> None:
        raise AssertionError("old and new loss are compared on one mini-batch")


def moves(beta: float, n: int = 200_000) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, N) accepted moves, zero where the proposal was rejected; and the direction of g."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(N, dtype=torch.float64, generator=generator)
    direction /= direction.norm()
    start = torch.randn(1, N, dtype=torch.float64, generator=generator).expand(n, N)
    x = start.clone()
    columns = {"sigma": torch.full((n, 1), SIGMA), "beta": torch.full((n, 1), beta)}
    draws = Draws(torch.arange(n).unsqueeze(1), torch.arange(N))
    part = Part(x, {}, {k: v.double() for k, v in columns.items()}, draws)
    run_step(ConditionedMutationRule(), [part], Linear(x, direction * SLOPE))
    return x - start, direction


@pytest.mark.parametrize(("beta", "expected"), [(math.inf, -0.039894), (5.0, -0.026158)])
def test_the_mean_move_is_down_the_gradient(beta: float, expected: float) -> None:
    steps, direction = moves(beta)
    assert abs(float((steps @ direction).mean()) - expected) < 3e-4
    across = steps - (steps @ direction).unsqueeze(1) * direction
    assert across.mean(0).abs().max() < 3 * SIGMA / math.sqrt(len(steps)) * 1.5
    s = beta * SIGMA * SLOPE
    if math.isfinite(s):  # e^{s²/2}·erfc(s/√2), in Whitelam's words erfcx(s/√2)
        tail = math.exp(s * s / 2) * math.erfc(s / math.sqrt(2))
        accepted = float((steps != 0).any(1).double().mean())
        assert abs(accepted - (1 + tail) / 2) < 5e-3
        assert math.isclose(-SIGMA * s * tail / 2, expected, abs_tol=1e-6)


def test_the_spread_and_the_share_at_infinite_beta() -> None:
    steps, _ = moves(math.inf)
    second = (steps * steps).mean(0)
    assert (second - SIGMA**2 / 2).abs().max() < 5 * SIGMA**2 * math.sqrt(1.25 / len(steps))
    assert abs(float((steps != 0).any(1).double().mean()) - 0.5) < 5e-3


class Curved(Linear):
    """U = g·θ + h·θ²/2 around 0, one curvature h in all directions."""

    def __init__(self, rows: torch.Tensor, gradient: torch.Tensor, curvature: float) -> None:
        super().__init__(rows, gradient)
        self.curvature = curvature

    def losses(self) -> torch.Tensor:
        return super().losses() + self.curvature / 2 * self.rows.square().sum(1, keepdim=True)


def test_where_the_loss_curves_fewer_are_kept_and_the_mean_move_is_shorter() -> None:
    """a = σ·tr(H)/(2·|g|) = 1/2: acceptance Φ(-a), drift times exp(-a²/2)."""
    n, width, a = 40_000, 100, 0.5
    x = torch.zeros(n, width, dtype=torch.float64)
    direction = torch.full((width,), width**-0.5, dtype=torch.float64)
    columns = {"sigma": torch.full((n, 1), SIGMA), "beta": torch.full((n, 1), math.inf)}
    draws = Draws(torch.arange(n).unsqueeze(1), torch.arange(width))
    part = Part(x, {}, {k: v.double() for k, v in columns.items()}, draws)
    curvature = 2 * a * SLOPE / (SIGMA * width)
    run_step(ConditionedMutationRule(), [part], Curved(x, direction * SLOPE, curvature))
    accepted = float((x != 0).any(1).double().mean())
    assert accepted == pytest.approx(math.erfc(a / math.sqrt(2)) / 2, abs=0.01)
    drift = -SIGMA / math.sqrt(2 * math.pi) * math.exp(-a * a / 2)
    assert float((x @ direction).mean()) == pytest.approx(drift, abs=1.5e-3)


def test_sigma_for_lr() -> None:
    assert sigma_for_lr(1e-4) == pytest.approx(1e-4 * math.sqrt(2 * math.pi))
    assert sigma_for_lr(0.01, 2.0) == pytest.approx(0.1)
    steps, direction = moves(math.inf)
    lr = SIGMA / math.sqrt(2 * math.pi)
    assert sigma_for_lr(lr) == pytest.approx(SIGMA)
    assert float((steps @ direction).mean()) == pytest.approx(-lr, abs=3e-4)
    for bad in ((0.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="must be a number above 0"):
            sigma_for_lr(*bad)


def test_rejected_is_bit_exact_and_accepted_lowers_the_loss() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(1)).requires_grad_()
    optimizer = ConditionedMutation([x], 0.1, generator=torch.Generator().manual_seed(2))
    closure = closure_of(optimizer, lambda: bowl(x))
    n_rejected = 0
    for _ in range(50):
        before, loss = x.detach().clone(), bowl(x.detach())
        assert float(optimizer.step(closure)) == pytest.approx(float(loss))
        if bowl(x.detach()) >= loss:
            assert torch.equal(x, before)
            n_rejected += 1
        else:
            assert not x.eq(before).any()
    assert 5 < n_rejected < 45


@pytest.mark.parametrize("beta", [math.inf, 1.0])
def test_a_loss_that_is_nan_is_never_accepted(beta: float) -> None:
    x = parameter(1.0)
    optimizer = ConditionedMutation([x], 0.1, beta)
    for losses in ([1.0, math.nan], [math.nan, 1.0], [1.0, math.inf]):
        calls = iter(losses)
        optimizer.step(lambda calls=calls: torch.tensor(next(calls)))  # type: ignore[misc]
        assert x.item() == 1


def test_a_closure_may_just_return_the_loss() -> None:
    x = parameter(1.0, 1.0)
    optimizer = ConditionedMutation([x], 0.1, generator=torch.Generator().manual_seed(0))
    for _ in range(100):
        optimizer.step(lambda: float(bowl(x.detach())))
    assert bowl(x) < 0.1
    assert x.grad is None


def test_all_groups_are_one_mutation() -> None:
    """Numbers do not depend on how the weights are cut into parameters and groups."""
    whole, left, right = parameter(*[1.0] * 6), parameter(*[1.0] * 2), parameter(*[1.0] * 4)
    for _ in range(2):
        torch.manual_seed(0)
        optimizer = ConditionedMutation([whole], 0.1)
        optimizer.step(lambda: float(bowl(whole.detach())))
        torch.manual_seed(0)
        parts = ConditionedMutation([{"params": [left]}, {"params": [right]}], 0.1)
        parts.step(lambda: float(bowl(left.detach()) + bowl(right.detach())))
    assert torch.equal(torch.cat([left, right]), whole)
