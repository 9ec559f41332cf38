from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators import GradientNoiseMutation
from tests.operators.landscapes import KnownLandscape, Vector

GRADIENTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(
    [3.0, 1.0, 0.3, 0.0]
) + torch.tensor([1e3, -5.0, 0.0, 7.0])


def covariance_of_mutations(mutation: GradientNoiseMutation, n: int = 20_000) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([mutation.noise([[g] for g in GRADIENTS], generator)[0] for _ in range(n)])
    assert drawn.mean(0).abs().max() < 5 * drawn.std() / math.sqrt(n)
    return torch.cov(drawn.T)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_the_covariance_is_that_of_the_gradients(scale: float) -> None:
    found = covariance_of_mutations(
        GradientNoiseMutation(rank=5, scale=scale, is_normalized=False)
    )
    expected = scale**2 * torch.cov(GRADIENTS.T)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * float(expected.max()))


def test_normalized_noise_is_as_long_as_gaussian_noise() -> None:
    found = covariance_of_mutations(GradientNoiseMutation(rank=5, scale=2.0))
    assert float(found.trace()) == pytest.approx(4 * 2.0**2, rel=0.03)
    shape = torch.cov(GRADIENTS.T)
    torch.testing.assert_close(found / found.trace(), shape / shape.trace(), rtol=0, atol=0.03)


def test_a_mutation_is_sigma_times_the_noise_on_trainable_weights_only() -> None:
    mutation, weights = GradientNoiseMutation(rank=5), torch.arange(4.0)
    moved = []
    for sigma in (0.5, 1.0):
        model, landscape = Vector(weights.double()), KnownLandscape(gradients=GRADIENTS)
        mutation.mutate(model, sigma, landscape, seed=3)
        assert landscape.n_gradients == mutation.n_gradients == 5
        assert torch.equal(model.fixed, torch.ones(2, dtype=torch.float64))
        moved.append(model.x.detach() - weights)
    torch.testing.assert_close(2 * moved[0], moved[1])
    assert moved[0][0] != 0
    assert moved[0][3] == 0  # no noise in this gradient


def test_the_seed_decides() -> None:
    models = [Vector(torch.zeros(4).double()) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        GradientNoiseMutation(5).mutate(model, 1.0, KnownLandscape(gradients=GRADIENTS), seed=seed)
    assert torch.equal(models[0].x, models[1].x)
    assert not torch.equal(models[0].x, models[2].x)


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_without_a_covariance_nothing_moves(value: float) -> None:
    model = Vector(torch.full((4,), -0.0))
    landscape = KnownLandscape(gradients=torch.full((8, 4), value))
    GradientNoiseMutation().mutate(model, 1.0, landscape, seed=0)
    assert torch.equal(model.x, torch.zeros(4))


def test_half_precision() -> None:
    model = Vector(torch.zeros(4, dtype=torch.bfloat16))
    GradientNoiseMutation(5).mutate(
        model, 0.1, KnownLandscape(gradients=GRADIENTS.bfloat16()), seed=0
    )
    assert model.x.dtype == torch.bfloat16
    assert model.x.isfinite().all()
    assert model.x.any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 1}, "rank must be a whole number >= 2, got 1"),
        ({"rank": 2.5}, "got 2.5"),
        ({"scale": 0.0}, "scale must be finite and above 0, got 0.0"),
        ({"scale": math.inf}, "got inf"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        GradientNoiseMutation(**arguments)
