from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.func import grad, vmap

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.modules import LIFLayer, spike


def surrogate_at(distance: float, window: float = math.inf) -> float:
    potential = torch.tensor(1 + distance, dtype=torch.float64, requires_grad=True)
    spike(potential, window).backward()
    assert potential.grad is not None
    return float(potential.grad)


@pytest.mark.parametrize("distance", [0.01, -0.01])
def test_the_surrogate(distance: float) -> None:
    assert surrogate_at(distance) == pytest.approx(0.25)
    assert surrogate_at(0.0) == 1.0
    assert surrogate_at(10 * distance) == pytest.approx(1 / 121)


def test_the_window_skips_neurons_far_from_the_threshold() -> None:
    assert surrogate_at(0.4, window=0.5) == pytest.approx(1 / 41**2)
    assert surrogate_at(0.6, window=0.5) == 0
    assert surrogate_at(0.0, window=0.0) == 0  # the true gradient


def test_spikes_are_steps() -> None:
    assert spike(torch.tensor([-1.0, 0.999, 1.0, 5.0])).tolist() == [0, 0, 1, 1]


def constant_input(layer: LIFLayer, current: float, steps: int) -> list[float]:
    layer.double()
    with torch.no_grad():
        layer.synapses.weight.fill_(current)
    outputs = layer(torch.ones(steps, 1, 1, dtype=torch.float64))
    return outputs.flatten().tolist()


def test_the_first_spike_comes_after_eleven_updates() -> None:
    spikes = constant_input(LIFLayer(1, 1, beta=math.exp(-0.1)), 0.15, 30)
    assert spikes.index(1.0) == 10
    assert sum(spikes) > 1  # the potential falls by the threshold, not for good


def test_after_a_spike_the_potential_is_lower_by_the_threshold() -> None:
    # β = 0.5, input 0.8: V = 0.8, 1.2 -> 0.2, 0.9, 1.25 -> 0.25, 0.925, 1.2625 -> ...
    assert constant_input(LIFLayer(1, 1, beta=0.5), 0.8, 6) == [0, 1, 0, 1, 0, 1]


def test_a_readout_integrates_and_never_spikes() -> None:
    potentials = constant_input(LIFLayer(1, 1, beta=0.5, spiking=False), 2.0, 4)
    assert potentials == pytest.approx([2.0, 3.0, 3.5, 3.75])


def train_gradient(window: float) -> float:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(LIFLayer(8, 5, window=window), LIFLayer(5, 2, window=window))
    spikes = (torch.rand(20, 3, 8) < 0.5).float()
    layers(spikes).mean().backward()
    gradients = [p.grad.abs().sum() for p in layers.parameters() if p.grad is not None]
    assert len(gradients) == 2
    return float(sum(gradients))


def test_the_true_gradient_vanishes_and_the_surrogate_does_not() -> None:
    assert train_gradient(0.0) == 0
    assert train_gradient(math.inf) > 0


def test_many_networks_at_once_are_the_same_as_one_by_one() -> None:
    weights = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    layer = LIFLayer(6, 4, window=0.5).double()
    inputs = (torch.rand(10, 2, 6, generator=torch.Generator().manual_seed(1)) < 0.6).double()

    def loss(weight: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(layer, {"synapses.weight": weight}, (inputs,))
        return outputs.square().sum() + outputs[-1].sum()

    together = vmap(grad(loss))(weights)
    for row, weight in enumerate(weights):
        torch.testing.assert_close(together[row], grad(loss)(weight))
    assert float(together.abs().sum()) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"beta": 1.0}, r"beta must be in \[0, 1\), got 1.0"),
        ({"beta": -0.1}, "beta"),
        ({"window": -1.0}, "window must be 0 or more, got -1.0"),
        ({"window": math.nan}, "got nan"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        LIFLayer(2, 2, **arguments)
