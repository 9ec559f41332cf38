"""Conjugate gradients: N steps for N dimensions, and never uphill."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.optim import NonlinearCG
from optuna_esgd.optim.line_search import Point, search_line
from tests.optim.functions import bowl, closure_of, parameter, path


@pytest.mark.parametrize("beta", ["pr+", "fr"])
@pytest.mark.parametrize("lr", [1e-3, 1.0, 100.0])
def test_n_steps_solve_a_quadratic_of_n_dimensions(beta: str, lr: float) -> None:
    torch.manual_seed(0)
    n = 6
    matrix = torch.randn(n, n, dtype=torch.float64)
    matrix = matrix @ matrix.T + torch.eye(n)
    vector = torch.randn(n, dtype=torch.float64)
    x = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = NonlinearCG([x], lr, beta, max_evaluations=30, slope_tolerance=1e-12)
    path(optimizer, x, n, lambda x: x @ matrix @ x / 2 - vector @ x)
    assert (matrix @ x - vector).abs().max() < 1e-7 * vector.abs().max()


def test_groups_with_their_own_rates_solve_it_too() -> None:
    """Rates weigh the inner products: the directions stay conjugate."""
    torch.manual_seed(0)
    matrix = torch.randn(5, 5, dtype=torch.float64)
    matrix = matrix @ matrix.T + torch.eye(5)
    x, y = parameter(1.0, 2.0), parameter(-1.0, 0.5, 3.0)
    optimizer = NonlinearCG(
        [{"params": [x]}, {"params": [y], "lr": 0.5}],
        0.01,
        max_evaluations=30,
        slope_tolerance=1e-12,
    )

    def loss() -> torch.Tensor:
        z = torch.cat([x, y])
        return z @ matrix @ z / 2

    for _ in range(5):
        optimizer.step(closure_of(optimizer, loss))
    assert loss().item() < 1e-12


def banana(x: torch.Tensor) -> torch.Tensor:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_the_loss_never_rises() -> None:
    x = parameter(-1.2, 1.0)
    optimizer = NonlinearCG([x])
    losses = [banana(x).item()]
    for _ in range(60):
        path(optimizer, x, 1, banana)
        losses.append(banana(x).item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_finds_nothing_leaves_the_weights_bit_by_bit(value: float) -> None:
    x = parameter(0.3)
    optimizer = NonlinearCG([x])
    n_calls = 0

    def closure() -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        x.grad = torch.ones_like(x)
        return torch.tensor(0.5 if n_calls == 1 else value)

    optimizer.step(closure)
    assert x.item() == 0.3
    assert n_calls == 11
    assert not optimizer.state[x]["direction"].any()
    x.grad = None
    optimizer.step(lambda: torch.tensor(1.0))
    assert x.item() == 0.3


@given(curvature=st.floats(1e-6, 1e6), tolerance=st.sampled_from([0.1, 0.5]), n=st.integers(1, 30))
def test_a_search_ends_lower_or_where_it_began(curvature: float, tolerance: float, n: int) -> None:
    def evaluate(t: float) -> Point:
        return Point(t, curvature * t * t / 2 - t, curvature * t - 1)

    start = evaluate(0.0)
    found = search_line(evaluate, start, n_evaluations=n, tolerance=tolerance)
    assert found == 0 or evaluate(found).loss < start.loss
    if n == 30:
        assert abs(evaluate(found).slope) <= tolerance


def test_arguments() -> None:
    bad: dict[str, Any] = {"lr": -1, "beta": "dy", "max_evaluations": 0, "slope_tolerance": 0}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            NonlinearCG([parameter(1.0)], **{name: value})
        with pytest.raises(ValueError, match=f"{name} must be"):
            NonlinearCG([{"params": [parameter(1.0)], name: value}])
    with pytest.raises(TypeError):
        NonlinearCG([parameter(1.0)]).step()  # type: ignore[call-arg]
    x = parameter(2.0)
    assert float(NonlinearCG([x]).step(closure_of(torch.optim.SGD([x]), lambda: bowl(x)))) == 2
