"""The closure contract: what an ordinary function means, and what a closure adds."""

from __future__ import annotations

import torch

from optuna_esgd.optim import Closure, EntropySGD, as_closure
from tests.optim.functions import bowl, closure_of, parameter


class Keyed(Closure):
    """Brings a key of its own."""

    def __init__(self, x: torch.Tensor, key: int) -> None:
        self.x = x
        self.key = torch.tensor(key)
        self.calls: list[str] = []

    def __call__(self) -> torch.Tensor:
        self.calls.append("gradients")
        self.x.grad = self.x.detach().clone()
        return bowl(self.x.detach())

    def loss(self) -> torch.Tensor:
        self.calls.append("loss")
        return bowl(self.x.detach())

    def advance(self) -> None:
        self.calls.append("advance")


def test_a_closure_stays_itself_and_a_function_becomes_one() -> None:
    x = parameter(2.0)
    closure = Keyed(x, 1)
    assert as_closure(closure) is closure
    ordinary = as_closure(closure_of(torch.optim.SGD([x]), lambda: bowl(x)))
    assert ordinary.key is None
    with torch.no_grad():
        for ask in (ordinary, ordinary.loss):
            loss = ask()
            assert loss.item() == 2
            assert not loss.requires_grad
    ordinary.advance()
    assert x.grad is not None
    assert as_closure(lambda: 3.5)().item() == 3.5


def test_draws_come_from_the_key_not_from_the_generator() -> None:
    results = []
    for key, seed in ((1, 1), (1, 2), (2, 1)):
        x = parameter(1.0)
        torch.manual_seed(seed)
        EntropySGD([x], langevin_steps=2, noise=0.1).step(Keyed(x, key))
        results.append(x.item())
    assert results[0] == results[1] != results[2]
