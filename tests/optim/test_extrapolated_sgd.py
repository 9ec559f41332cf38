"""Gradients at a point ahead: where they contract, and what they are without it."""

from __future__ import annotations

import pytest
import torch

from optuna_esgd.optim import ExtrapolatedSGD
from tests.optim.functions import bowl, parameter, path, rate


def duel(optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    """The factor per step by which (x, y) grows on min_x max_y xy."""

    def closure() -> torch.Tensor:
        x.grad, y.grad = y.detach().clone(), -x.detach().clone()
        return x.detach() * y.detach()

    points = []
    for _ in range(80):
        optimizer.step(closure)  # type: ignore[arg-type]
        points.append(torch.cat([x, y]).detach().clone())
    return rate(torch.stack(points))


@pytest.mark.parametrize(
    ("mode", "lr", "expected"),
    [("extragradient", 0.5, 0.9013878), ("past", 0.3, 0.9486833)],
)
def test_contracts_where_plain_descent_grows(mode: str, lr: float, expected: float) -> None:
    x, y = parameter(1.0), parameter(1.0)
    assert duel(ExtrapolatedSGD([x, y], lr, mode=mode), x, y) == pytest.approx(expected, abs=1e-7)  # type: ignore[arg-type]
    x, y = parameter(1.0), parameter(1.0)
    assert duel(torch.optim.SGD([x, y], 0.5), x, y) == pytest.approx(1.1180, abs=1e-4)


def test_nesterov_is_torchs_seen_from_x() -> None:
    """torch keeps y = x - lr·μ·v in the weights."""
    x, y = parameter(1.0, -3.0), parameter(1.0, -3.0)
    ours = ExtrapolatedSGD([x], 0.1, mode="nesterov", momentum=0.9)
    torchs = torch.optim.SGD([y], 0.1, 0.9, nesterov=True)
    for _ in range(20):
        path(ours, x, 1, bowl)
        path(torchs, y, 1, bowl)
        ahead = x.detach() - 0.1 * 0.9 * ours.state[x]["momentum_buffer"]
        torch.testing.assert_close(ahead, y.detach())


@pytest.mark.parametrize("mode", ["past", "extragradient", "nesterov"])
def test_without_extrapolation_it_is_sgd(mode: str) -> None:
    x, y = parameter(1.0, -3.0), parameter(1.0, -3.0)
    extrapolation = {} if mode == "nesterov" else {"extrapolation_lr": 0.0, "momentum": 0.5}
    ours = ExtrapolatedSGD([x], 0.1, mode=mode, weight_decay=0.1, **extrapolation)  # type: ignore[arg-type]
    torchs = torch.optim.SGD([y], 0.1, extrapolation.get("momentum", 0.0), weight_decay=0.1)
    torch.testing.assert_close(path(ours, x, 20, bowl), path(torchs, y, 20, bowl))


def test_refuses_what_would_do_nothing() -> None:
    with pytest.raises(ValueError, match=r"extrapolation_lr must be None, got 0\.1"):
        ExtrapolatedSGD([parameter(1.0)], extrapolation_lr=0.1, mode="nesterov")
