from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.optim import ExtrapolatedSGD
from optuna_esgd.schedules import RangeTest, lr_range_test


class Quadratic(nn.Module):
    """Loss Σ x²/2, on which plain descent is stable below lr = 2."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.int64))

    def loss(self) -> Tensor:
        self.n_calls += 1
        return self.x.square().sum() / 2


def run(**arguments: Any) -> RangeTest:
    model = Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    return lr_range_test(model, optimizer, model.loss, **arguments)


def test_the_upper_bound_is_where_training_destabilises() -> None:
    result = run(lr_low=1e-4, lr_high=100.0, n_steps=600, smoothing=0.0)
    assert 1.0 < result.lr_max < 2.6
    assert 1e-4 < result.lr_min < 0.1 < result.lr_max
    assert len(result.rates) == len(result.losses) < 600  # it stopped as the loss exploded


def test_rates_grow_geometrically_from_bound_to_bound() -> None:
    result = run(lr_low=1e-3, lr_high=1e-1, n_steps=21)
    assert result.rates[0] == pytest.approx(1e-3)
    assert result.rates[-1] == pytest.approx(1e-1)
    ratios = [b / a for a, b in zip(result.rates, result.rates[1:], strict=False)]
    assert ratios == pytest.approx([10**0.1] * 20)


def test_the_loss_beside_a_rate_is_the_one_it_led_to() -> None:
    result = run(lr_low=0.5, lr_high=1.0, n_steps=2, smoothing=0.0)
    assert result.losses == pytest.approx([1.5 * 0.25, 0.0])


def test_model_and_optimizer_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    model(x).square().mean().backward()
    optimizer.step()
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    lr_range_test(model, optimizer, lambda: model(x).square().mean())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for number, tensors in state["state"].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, after["state"][number][name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_optimizer_that_evaluates_the_loss_itself_is_tested_by_its_closure() -> None:
    model = Quadratic()
    arguments = {"lr_low": 0.01, "lr_high": 0.5, "n_steps": 5, "smoothing": 0.0}
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    ahead = ExtrapolatedSGD(model.parameters(), lr=0.1, mode="nesterov")  # the same at μ = 0
    first, second = (
        lr_range_test(model, one, model.loss, **arguments)  # type: ignore[arg-type]
        for one in (plain, ahead)
    )
    assert second.losses == pytest.approx(first.losses)


def test_what_fails_is_undone_too() -> None:
    model = Quadratic()

    def loss() -> Tensor:
        if model.n_calls == 5:
            raise RuntimeError("out of data")
        return model.loss()

    with pytest.raises(RuntimeError, match="out of data"):
        lr_range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), loss)
    assert torch.equal(model.x, torch.ones(3, dtype=torch.float64))


def test_a_model_that_has_diverged_is_refused() -> None:
    model = Quadratic()
    model.x.data.fill_(math.nan)
    with pytest.raises(ConfigurationError, match="not finite at the lowest"):
        lr_range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), model.loss)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr_low": 0.0}, "0 < lr_low < lr_high"),
        ({"lr_low": 20.0}, r"got \[20.0, 10.0\]"),
        ({"lr_high": math.inf}, "inf"),
        ({"n_steps": 1}, "n_steps must be a whole number >= 2, got 1"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
        ({"divergence": 1.0}, "divergence must be above 1, got 1.0"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run(**arguments)
