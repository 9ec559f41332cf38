"""STDP as an optimizer: its change, its cost, and what every optimizer of ours is tested for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.modules import LIFLayer, STDPRule
from optuna_esgd.optim import STDP, Closure
from optuna_esgd.optim.spikes import noted_spikes

SPIKES = (torch.rand(12, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def make_layer(dtype: torch.dtype = torch.float32, **arguments: Any) -> LIFLayer:
    layer = LIFLayer(6, 3, **arguments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.synapses.weight.copy_(0.2 + 0.6 * torch.rand(3, 6, generator=generator))
    return layer.to(dtype)


def closure_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    return lambda: model(SPIKES.to(dtype)).mean()


def test_a_mini_batch_is_the_mean_of_its_examples() -> None:
    layer = make_layer(torch.float64)
    before = layer.synapses.weight.detach().clone()
    outputs = layer(SPIKES.double()).detach()
    changes = []
    for example in range(SPIKES.shape[1]):
        weights = before.clone()
        STDPRule(0.1, 0.05).update(weights, SPIKES[:, example], outputs[:, example])
        changes.append(weights - before)
    STDP(layer.parameters(), 0.1, 0.05).step(closure_of(layer, torch.float64))
    torch.testing.assert_close(layer.synapses.weight - before, torch.stack(changes).mean(0))
    assert (layer.synapses.weight != before).any()


class Forward(Closure):
    """Knows no gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self) -> Tensor:
        raise AssertionError("it wants no gradients")

    def loss(self) -> Tensor:
        return self.model(SPIKES).mean()

    def advance(self) -> None:
        raise AssertionError("one mini-batch per step")


def test_a_step_is_one_forward_pass_and_returns_the_loss() -> None:
    layer = make_layer()
    expected = closure_of(layer)().item()
    assert STDP(layer.parameters()).step(Forward(layer)).item() == expected


def test_a_neuron_learns_what_comes_before_it_spikes() -> None:
    """Three inputs spike first and drive it, three come too late: in the end they do not count."""
    layer = LIFLayer(6, 1)
    nn.init.constant_(layer.synapses.weight, 0.5)
    spikes = torch.zeros(8, 4, 6)
    spikes[1, :, :3], spikes[4, :, 3:] = 1, 1
    optimizer = STDP(layer.parameters(), 0.1, 0.1)
    for _ in range(100):
        optimizer.step(lambda: layer(spikes).mean())
    early, late = layer.synapses.weight.detach()[0].split(3)
    assert early.min() > 0.99
    assert late.max() < 0.01
    assert late.min() > 0


def test_readouts_and_synapses_out_of_bounds_stay() -> None:
    model = nn.Sequential(make_layer(), LIFLayer(3, 2, spiking=False))
    with torch.no_grad():
        model[0].synapses.weight[0, :3] = torch.tensor([-0.5, 1.5, 1.0])
    before = copy.deepcopy(model.state_dict())
    for _ in range(3):
        STDP(model.parameters(), 0.5, 0.5).step(closure_of(model))
    after = model.state_dict()
    assert torch.equal(after["1.synapses.weight"], before["1.synapses.weight"])
    assert torch.equal(after["0.synapses.weight"][0, :3], before["0.synapses.weight"][0, :3])
    assert not torch.equal(after["0.synapses.weight"], before["0.synapses.weight"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    layer = make_layer(dtype)
    before = layer.synapses.weight.detach().clone()
    STDP(layer.parameters(), 0.5, 0.5).step(closure_of(layer, dtype))
    assert layer.synapses.weight.dtype == dtype
    assert (layer.synapses.weight != before).any()


class Both(nn.Module):
    """Two layers side by side."""

    def __init__(self, first: LIFLayer, second: LIFLayer) -> None:
        super().__init__()
        self.layers = nn.ModuleList([first, second])

    def forward(self, spikes: Tensor) -> Tensor:
        return sum(layer(spikes) for layer in self.layers)  # type: ignore[return-value]


def test_every_parameter_group_is_honoured() -> None:
    still, moving = make_layer(), make_layer()
    start = still.synapses.weight.detach().clone()
    groups = [
        {"params": list(still.parameters()), "a_plus": 0.0, "a_minus": 0.0},
        {"params": list(moving.parameters())},
    ]
    STDP(groups, 0.1, 0.1).step(closure_of(Both(still, moving)))
    assert torch.equal(still.synapses.weight, start)
    assert not torch.equal(moving.synapses.weight, start)


def test_state_dicts_travel_and_strangers_change_nothing() -> None:
    first, second, strange = make_layer(), make_layer(), make_layer()
    ours, theirs = STDP(first.parameters(), 0.2, 0.1), STDP(second.parameters())
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for _ in range(3):
        ours.step(closure_of(first))
        STDP(strange.parameters(), 0.9, 0.9).step(closure_of(strange))
        theirs.step(closure_of(second))
    assert torch.equal(first.synapses.weight, second.synapses.weight)


def test_layers_note_spikes_only_while_somebody_listens() -> None:
    layer = make_layer()
    layer(SPIKES)
    with noted_spikes() as noted:
        assert noted == []
        outputs = layer(SPIKES)
    layer(SPIKES)
    (spikes,) = noted
    assert spikes.weights is layer.synapses.weight
    assert torch.equal(spikes.outputs, outputs)
    assert not spikes.outputs.requires_grad


@pytest.mark.parametrize("arguments", [{"a_plus": -0.1}, {"a_minus": 1.1}, {"a_plus": "much"}])
def test_refuses_rates(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"a_.* must be a number in \[0, 1\], got"):
        STDP(make_layer().parameters(), **arguments)
    with pytest.raises(ConfigurationError, match=r"must be a number in \[0, 1\], got"):
        STDP([{"params": list(make_layer().parameters()), **arguments}])


def test_refuses_models_without_spikes() -> None:
    readout, other = make_layer(spiking=False), make_layer()
    for model, runs in ((readout, readout), (other, make_layer())):
        with pytest.raises(ConfigurationError, match=r"Build the model of modules\.LIFLayer"):
            STDP(model.parameters()).step(closure_of(runs))
