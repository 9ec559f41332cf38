"""Cycle-stabilised SGD: its coefficients and where it is stable."""

from __future__ import annotations

import pytest
import torch

from optuna_esgd.optim import CycleStabilizedSGD
from optuna_esgd.optim.cycle_stabilized_sgd import fejer_coefficients
from tests.optim.functions import bowl, parameter, path


def growth(lr: float, depth: int) -> float:
    """The largest root of the recursion, from the least-squares fit of its last points."""
    x = parameter(1.0)
    points = path(CycleStabilizedSGD([x], lr, depth), x, 60, bowl)[:, 0]
    window = points[20:]
    past = torch.stack([window[depth - 1 - j : len(window) - 1 - j] for j in range(depth)], dim=1)
    coefficients = torch.linalg.lstsq(past, window[depth:].unsqueeze(1)).solution[:, 0]
    companion = torch.diag(torch.ones(depth - 1, dtype=torch.float64), -1)
    companion[0] = coefficients
    return float(torch.linalg.eigvals(companion).abs().max())


def test_coefficients() -> None:
    assert fejer_coefficients(1) == pytest.approx((1.0,))
    assert fejer_coefficients(2) == pytest.approx((2 / 3, 1 / 3))
    assert fejer_coefficients(3) == pytest.approx((0.439340, 0.414214, 0.146447), abs=1e-6)
    for depth in range(1, 12):
        assert sum(fejer_coefficients(depth)) == pytest.approx(1)


@pytest.mark.parametrize(("depth", "expected"), [(1, 2.0), (2, 0.8165), (3, 0.7974)])
def test_contracts_where_sgd_doubles(depth: int, expected: float) -> None:
    assert growth(3.0, depth) == pytest.approx(expected, abs=1e-4)


def test_where_depth_2_ends() -> None:
    assert growth(3.9, 2) < 1
    assert growth(4.1, 2) > 1


def test_depth_1_is_sgd() -> None:
    x, y = parameter(1.0, -3.0), parameter(1.0, -3.0)
    ours = CycleStabilizedSGD([x], 0.1, 1, 0.9, 0.01)
    torchs = torch.optim.SGD([y], 0.1, 0.9, weight_decay=0.01)
    torch.testing.assert_close(path(ours, x, 20, bowl), path(torchs, y, 20, bowl))


def test_follows_the_recursion_from_its_second_step_on() -> None:
    x = parameter(1.0)
    points = [1.0, *path(CycleStabilizedSGD([x], 0.3, 3), x, 8, bowl)[:, 0].tolist()]
    a = fejer_coefficients(3)
    for n in range(2, 8):
        mapped = [points[n - j] * 0.7 for j in range(3)]
        assert points[n + 1] == pytest.approx(sum(c * m for c, m in zip(a, mapped, strict=True)))


def test_steps_without_a_closure() -> None:
    x = parameter(1.0)
    optimizer = CycleStabilizedSGD([x], 0.1)
    bowl(x).backward()
    assert optimizer.step() is None
    assert x.item() == pytest.approx(1 - 0.1 * 2 / 3)
