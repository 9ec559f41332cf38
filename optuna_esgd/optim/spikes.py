"""How spiking layers let a local learning rule know what spiked.

A rule such as STDP needs the spikes on both sides of every synapse, which neither the loss nor a
gradient tells. Layers note them while somebody listens, and nothing otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class Spikes(NamedTuple):
    """What a layer saw and did in one forward pass.

    Attributes:
        weights: (neurons, inputs) of its synapses: the parameter itself.
        inputs: (steps, batch, inputs) spikes, above 0 where there is one.
        outputs: (steps, batch, neurons) the same of its neurons.
    """

    weights: Tensor
    inputs: Tensor
    outputs: Tensor


@runtime_checkable
class SpikingLayer(Protocol):
    """A layer that calls ``note_spikes``, as ``modules.LIFLayer`` does.

    Attributes:
        spiking: Whether it spikes; readout layers do not.
        synapses: Its weights.
    """

    spiking: bool
    synapses: nn.Linear


# Threads may listen at once: each then hears of all, and knows its own layers by their weights.
_listeners: list[list[Spikes]] = []


def spiking_weights(model: nn.Module) -> list[Tensor]:
    """(neurons, inputs) synapses of each spiking layer of a model, in its order."""
    layers: list[SpikingLayer] = [
        module for module in model.modules() if isinstance(module, SpikingLayer)
    ]
    return [layer.synapses.weight for layer in layers if layer.spiking]


@contextlib.contextmanager
def noted_spikes() -> Iterator[list[Spikes]]:
    """Listen for a block; the list fills as layers run, in their order."""
    spikes: list[Spikes] = []
    _listeners.append(spikes)
    try:
        yield spikes
    finally:
        _listeners[:] = [others for others in _listeners if others is not spikes]


def note_spikes(weights: Tensor, inputs: Tensor, outputs: Tensor) -> None:
    """Tell who listens, if anybody does; see ``Spikes``."""
    for spikes in _listeners:
        spikes.append(Spikes(weights, inputs.detach(), outputs.detach()))
