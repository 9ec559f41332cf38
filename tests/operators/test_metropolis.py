from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators import MetropolisMutation
from tests.operators.landscapes import KnownLandscape, Vector


def slope(x: Tensor) -> float:
    """A linear landscape with a gradient of length 2 along the first of 10 weights."""
    return 2.0 * float(x[0])


def erfcx(x: float) -> float:
    return math.exp(x * x) * math.erfc(x)


@pytest.mark.parametrize("beta", [5.0, math.inf])
def test_on_a_slope_it_drifts_and_accepts_as_the_theory_says(beta: float) -> None:
    sigma, n = 0.1, 20_000
    mutation, generator = MetropolisMutation(beta), torch.Generator().manual_seed(0)
    steps, accepted = [], 0
    for seed in torch.randint(2**62, (n,), generator=generator).tolist():
        model = Vector(torch.zeros(10, dtype=torch.float64))
        mutation.mutate(model, sigma, KnownLandscape(slope), seed=seed)
        steps.append(model.x[0].item())
        accepted += int(model.x.any())
    s = beta * sigma * 2
    drift = (
        sigma / math.sqrt(2 * math.pi)
        if beta == math.inf
        else sigma * s / 2 * erfcx(s / math.sqrt(2))
    )
    acceptance = 0.5 if beta == math.inf else (1 + erfcx(s / math.sqrt(2))) / 2
    deviation = 5 * sigma / math.sqrt(n)
    assert sum(steps) / n == pytest.approx(-drift, abs=deviation)
    assert accepted / n == pytest.approx(acceptance, abs=5 * 0.5 / math.sqrt(n))


@given(st.integers(0, 2**62), st.integers(1, 5))
def test_without_heat_the_fitness_never_gets_worse(seed: int, n_proposals: int) -> None:
    def bowl(x: Tensor) -> float:
        return float((x - 0.3).square().sum())

    model = Vector(torch.zeros(4, dtype=torch.float64))
    before = bowl(model.x.detach())
    landscape, mutation = KnownLandscape(bowl), MetropolisMutation(n_proposals=n_proposals)
    mutation.mutate(model, 0.5, landscape, seed=seed)
    assert bowl(model.x.detach()) <= before
    assert landscape.n_evaluations == mutation.n_evaluations == n_proposals + 1


def test_what_is_not_kept_is_undone_bit_by_bit() -> None:
    weights = torch.tensor([-0.0, 1e-42, 0.1, 3e38])
    model = Vector(weights)
    fitness = iter([0.0, 1.0, math.inf, math.nan])
    mutation = MetropolisMutation(n_proposals=3)
    mutation.mutate(model, 1.0, KnownLandscape(lambda _: next(fitness)), seed=0)
    assert torch.equal(model.x.detach().view(torch.int32), weights.view(torch.int32))


def test_heat_never_accepts_what_has_diverged() -> None:
    assert not MetropolisMutation(beta=1e-9).is_accepted(0.0, math.inf, 0.0)
    assert MetropolisMutation(beta=1e-9).is_accepted(0.0, 1e3, 0.5)
    assert MetropolisMutation().is_accepted(1.0, 1.0, 0.999)
    assert not MetropolisMutation().is_accepted(1.0, 1.0 + 1e-15, 0.0)
    assert MetropolisMutation().is_accepted(math.inf, math.inf, 0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"beta": 0.0}, "beta must be above 0"),
        ({"beta": math.nan}, "got nan"),
        ({"n_proposals": 0}, "n_proposals must be a whole number >= 1, got 0"),
        ({"n_proposals": True}, "got True"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        MetropolisMutation(**arguments)
