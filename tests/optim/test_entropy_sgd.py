"""Entropy-SGD: its path, its spread, and which mini-batches it sees."""

from __future__ import annotations

import math

import pytest
import torch

from optuna_esgd.optim import Closure, EntropySGD
from optuna_esgd.optim.entropy_sgd import EntropyRule
from optuna_esgd.optim.rule import Draws, Evaluation, Part
from tests.optim.functions import bowl, closure_of, parameter, path


@pytest.mark.parametrize(
    ("scoping", "expected"),
    [
        (0.0, [0.9783937344, 0.9572542995, 0.9365716088, 0.9163357938]),
        (1.0, [0.9783937344, 0.9587674465, 0.9421368611, 0.9297069110]),
    ],
)
def test_the_path_on_a_bowl(scoping: float, expected: list[float]) -> None:
    x = parameter(1.0)
    optimizer = EntropySGD(
        [x], 0.1, langevin_steps=5, inner_lr=0.1, gamma=0.5, scoping=scoping, noise=0.0
    )
    points = path(optimizer, x, 4, bowl)[:, 0]
    torch.testing.assert_close(
        points, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
    )


def test_the_langevin_dynamics_spread_as_they_should() -> None:
    """AR(1): variance η'ε² / (1 - (1 - η'(1 + γ))²), of many chains at once."""
    n_chains, n_steps = 20_000, 60
    rule = EntropyRule(langevin_steps=n_steps + 1, has_momentum=False)
    x = torch.zeros(1, n_chains, dtype=torch.float64)
    values = {"lr": 0.1, "inner_lr": 0.1, "gamma": 0.5, "noise": 0.1, "averaging": 0.25}
    columns = {name: torch.tensor([[value]]).double() for name, value in values.items()}
    draws = Draws(torch.tensor([[4]]), torch.arange(n_chains))
    part = Part(x, rule.init_state(x), columns, draws)
    rule.begin(part)
    for index in range(n_steps):
        rule.advance(index, part, Evaluation(x.clone(), torch.zeros(1, 1)))
    expected = 0.0036036
    assert math.isclose(0.1 * 0.1**2 / (1 - (1 - 0.1 * 1.5) ** 2), expected, rel_tol=1e-4)
    assert abs(float(x.var()) - expected) < 5 * expected * math.sqrt(2 / n_chains)


class Batches(Closure):
    """Counts which mini-batch each gradient was of."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.number, self.seen = x, 0, []

    def __call__(self) -> torch.Tensor:
        self.seen.append(self.number)
        self.x.grad = self.x.detach().clone()
        return torch.ones(())

    def loss(self) -> torch.Tensor:
        raise AssertionError("it wants gradients")

    def advance(self) -> None:
        self.number += 1


def test_each_inner_step_is_on_a_fresh_mini_batch() -> None:
    x = parameter(1.0)
    closure = Batches(x)
    EntropySGD([x], langevin_steps=4).step(closure)
    assert closure.seen == [0, 1, 2, 3]


def test_outer_momentum_is_torchs() -> None:
    """With L = 1, η' and α = 1 the direction x - μ is η' times the gradient."""
    for nesterov in (False, True):
        x, y = parameter(1.0, -2.0), parameter(1.0, -2.0)
        ours = EntropySGD(
            [x], 0.5, 0.9, nesterov, 0.1, langevin_steps=1, inner_lr=0.2, averaging=1.0, noise=0.0
        )
        torchs = torch.optim.SGD([y], 0.1, 0.9, weight_decay=0.1, nesterov=nesterov)
        torch.testing.assert_close(path(ours, x, 20, bowl), path(torchs, y, 20, bowl))


def test_the_generator_travels_in_the_state_dict() -> None:
    def make(x: torch.Tensor) -> EntropySGD:
        generator = torch.Generator().manual_seed(5)
        return EntropySGD([x], langevin_steps=2, noise=0.1, generator=generator)

    x = parameter(1.0)
    optimizer = make(x)
    path(optimizer, x, 3, bowl)
    y = x.detach().clone().requires_grad_()
    again = make(y)
    again.load_state_dict(optimizer.state_dict())
    torch.manual_seed(1)
    expected = path(optimizer, x, 3, bowl)
    torch.manual_seed(2)
    assert torch.equal(path(again, y, 3, bowl), expected)


def test_groups_share_their_number_of_steps() -> None:
    groups = [{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], "langevin_steps": 3}]
    with pytest.raises(ValueError, match=r"langevin_steps must be the same .* got 20 and 3"):
        EntropySGD(groups)
    with pytest.raises(ValueError, match="gamma must be a number of at least 0, got -1"):
        EntropySGD([{"params": [parameter(1.0)], "gamma": -1}])


def test_wants_a_closure_and_a_generator_that_is_one() -> None:
    x = parameter(1.0)
    with pytest.raises(ValueError, match="EntropySGD evaluates the loss itself: write a closure"):
        EntropySGD([x]).step()
    with pytest.raises(ValueError, match=r"generator must be a torch\.Generator or None, got 3"):
        EntropySGD([x], generator=3)  # type: ignore[arg-type]


def test_parameters_without_a_share_in_the_loss_stay() -> None:
    x, unused = parameter(1.0), parameter(1.0)
    optimizer = EntropySGD([x, unused], noise=1.0)
    optimizer.step(closure_of(optimizer, lambda: bowl(x)))
    assert unused.item() == 1
    assert x.item() != 1
