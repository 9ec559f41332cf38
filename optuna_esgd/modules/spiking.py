"""Leaky integrate-and-fire neurons, trainable by a surrogate gradient.

A spike is a step function of the membrane potential V: its true gradient is zero almost
everywhere. The backward pass uses 1/(100·|V - 1| + 1)² instead, and nothing at all for neurons
far from their threshold (Perez-Nieves and Goodman, arXiv 2105.08810).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.optim.spikes import note_spikes

_STEEPNESS = 100.0
_THRESHOLD = 1.0


class SpikeFunction(torch.autograd.Function):
    """1 where V >= 1, else 0; with the surrogate's gradient where |V - 1| < window."""

    generate_vmap_rule = True

    @staticmethod
    def forward(potential: Tensor, window: float) -> Tensor:
        """Spikes of the potential's shape and dtype; ``window`` is of the backward pass."""
        del window
        return (potential >= _THRESHOLD).to(potential.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        """Keep the potential for the backward pass."""
        del output
        potential, ctx.window = inputs
        ctx.save_for_backward(potential)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Gradient times the surrogate."""
        (potential,) = ctx.saved_tensors
        distance = (potential - _THRESHOLD).abs()
        surrogate = (_STEEPNESS * distance + 1).pow(-2)
        return gradient * surrogate * (distance < ctx.window), None


def spike(potential: Tensor, window: float = math.inf) -> Tensor:
    """Spikes of a membrane potential; see ``SpikeFunction``."""
    spikes: Tensor = SpikeFunction.apply(potential, window)  # type: ignore[no-untyped-call]
    return spikes


class LIFLayer(nn.Module):
    """A layer of leaky integrate-and-fire neurons behind linear synapses.

    V ← β·V + W·x in each step; where V >= 1 the neuron spikes and V falls by 1. No gradient flows
    through the fall. Who listens is told what spiked (``optim.spikes``), as ``optim.STDP`` does.

    Args:
        in_features: Width of the input.
        out_features: Number of neurons.
        beta: β, what is left of the potential after one step, in [0, 1).
        window: Neurons further than this from the threshold get no gradient; above 0, and 0 for
            the true gradient, which vanishes everywhere.
        spiking: False for a readout layer, which integrates and never spikes.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        beta: float = 0.9,
        window: float = math.inf,
        *,
        spiking: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ConfigurationError(f"beta must be in [0, 1), got {beta}.")
        if not window >= 0:
            raise ConfigurationError(f"window must be 0 or more, got {window}.")
        self.synapses = nn.Linear(in_features, out_features, bias=False)
        self.beta = beta
        self.window = window
        self.spiking = spiking

    def forward(self, inputs: Tensor) -> Tensor:
        """Spikes over time, or potentials of a layer that does not spike.

        Args:
            inputs: (steps, batch, in_features), e.g. the spikes of the layer before.

        Returns:
            (steps, batch, out_features).
        """
        currents: Tensor = self.synapses(inputs)
        if not self.spiking:
            return integrate(currents, self.beta)
        potential, outputs = currents[0], []
        for step, current in enumerate(currents):
            if step > 0:
                potential = torch.add(current, potential, alpha=self.beta)
            outputs.append(spike(potential, self.window))
            potential = potential - outputs[-1].detach()  # times the threshold, which is 1
        spikes = torch.stack(outputs)
        note_spikes(self.synapses.weight, inputs, spikes)
        return spikes


def integrate(currents: Tensor, beta: float) -> Tensor:
    """Potentials without spikes: V_t = Σ_s β^(t - s)·I_s for s <= t, all steps at once.

    Args:
        currents: (steps, ...) I.
        beta: β.
    """
    steps = torch.arange(len(currents), device=currents.device)
    # Half precision cannot count the steps of a long sequence.
    ages = (steps[:, None] - steps).to(torch.promote_types(currents.dtype, torch.float32))
    kernel = torch.where(ages >= 0, beta ** ages.clamp(min=0), 0.0)
    potentials: Tensor = torch.tensordot(kernel.to(currents.dtype), currents, dims=1)
    return potentials
