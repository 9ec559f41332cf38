"""Spike-timing-dependent plasticity: synapses that learn from the order of spikes, without loss.

The rule is the simplified, weight-dependent one used by Vaila, "Deep Convolutional Spiking Neural
Networks for Image Classification" (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.optim.stdp import stdp_rate


class STDPRule:
    """Δw = +a⁺·w·(1 - w) where the input spiked before the neuron did, else -a⁻·w·(1 - w).

    The factor w·(1 - w) keeps weights within (0, 1) softly: it vanishes at both ends. For one
    example at a time; ``optim.STDP`` is the same for mini-batches, as an optimizer.

    Args:
        a_plus: a⁺, in [0, 1].
        a_minus: a⁻, in [0, 1].

    Raises:
        ConfigurationError: A rate is out of range.
    """

    def __init__(self, a_plus: float = 0.004, a_minus: float = 0.003) -> None:
        for name, rate in (("a_plus", a_plus), ("a_minus", a_minus)):
            if not 0 <= rate <= 1:
                raise ConfigurationError(f"{name} must be in [0, 1], got {rate}.")
        self.a_plus = a_plus
        self.a_minus = a_minus

    @torch.no_grad()
    def update(self, weights: Tensor, inputs: Tensor, outputs: Tensor) -> None:
        """Change the weights in place after one example.

        Synapses of neurons that did not spike keep their weights.

        Args:
            weights: (neurons, inputs) in [0, 1].
            inputs: (steps, inputs) spikes of the inputs, 0 or 1.
            outputs: (steps, neurons) spikes of the neurons.

        Raises:
            ConfigurationError: Shapes do not fit, or weights are outside [0, 1].
        """
        n_neurons, n_inputs = weights.shape
        if inputs.shape[1:] != (n_inputs,) or outputs.shape != (len(inputs), n_neurons):
            raise ConfigurationError(
                f"Weights {list(weights.shape)} need inputs (steps, {n_inputs}) and outputs "
                f"(steps, {n_neurons}), got {list(inputs.shape)} and {list(outputs.shape)}."
            )
        if weights.min() < 0 or weights.max() > 1:
            raise ConfigurationError("Weights must be in [0, 1] for w·(1 - w) to bound them.")
        rate = stdp_rate(inputs[:, None], outputs[:, None], self.a_plus, self.a_minus)
        weights.add_(rate.to(weights.dtype) * weights * (1 - weights))
