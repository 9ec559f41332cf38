from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from optuna_esgd.comparison.networks import Networks, Prepared, with_cosine
from optuna_esgd.species import Species
from tests.comparison.benchmarks import N_BATCHES, build


def networks() -> Networks:
    return Networks(build().task, seed=0, device=torch.device("cpu"))


class Watched(torch.optim.SGD):
    """Remembers the learning rate of every step."""

    rates: list[float]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def test_learning_rates_fall_to_zero_along_a_cosine() -> None:
    Watched.rates = []
    prepare = with_cosine(Species(Watched, lr=0.1), {}, 4)
    list(islice(networks().train(prepare), 4))
    expected = [0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert Watched.rates[::N_BATCHES] == pytest.approx(expected)


class WithoutRate(torch.optim.Optimizer):
    """Makes its own steps; there is nothing to anneal."""

    def __init__(self, params: Iterable[Tensor], size: float = 0.1) -> None:
        super().__init__(params, {"size": size})

    @torch.no_grad()
    def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
        loss = closure()
        for group in self.param_groups:
            for one in group["params"]:
                one.sub_(group["size"] * one.grad)
        return loss


def test_an_optimizer_without_learning_rate_is_left_as_it_is() -> None:
    trained = networks()
    before, *_, after = islice(trained.train(with_cosine(Species(WithoutRate), {}, 4)), 4)
    assert after < before
    assert trained.outcome().n_gradients == 4 * N_BATCHES


class Failing(torch.optim.SGD):
    """Raises in its first step."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        raise RuntimeError("no step today")


def test_a_network_whose_optimizer_fails_stays_what_it_was() -> None:
    trained = networks()
    fitness = list(islice(trained.train(with_cosine(Species(Failing, lr=0.1), {}, 2)), 2))
    assert fitness[0] == fitness[1] == trained.outcome().validation
    assert trained.n_epochs == 2


def test_the_best_point_counts_not_the_last_and_births_count_too() -> None:
    trained = networks()

    def climb(model: nn.Module) -> Prepared:
        return torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), None

    fitness = list(islice(trained.train(climb), 3))
    outcome = trained.outcome()
    assert outcome.validation < min(fitness)
    assert outcome.n_evaluations == 4
    with torch.no_grad():
        assert build().task.fitness(outcome.model.eval()) == outcome.validation


def test_networks_start_and_go_on_each_by_their_own_draws() -> None:
    trained = networks()
    prepare = with_cosine(Species(torch.optim.SGD, lr=0.1), {}, 2)
    first, second = (list(islice(trained.train(prepare), 2)) for _ in range(2))
    assert first != second
    assert trained.n_networks == 2
