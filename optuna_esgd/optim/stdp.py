"""Spike-timing-dependent plasticity as an optimizer: local updates, no gradients.

The rule is the simplified, weight-dependent one used by Vaila, "Deep Convolutional Spiking Neural
Networks for Image Classification" (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.optim.closure import as_closure
from optuna_esgd.optim.limited_optimizer import LimitedOptimizer, Parameters
from optuna_esgd.optim.limits import UNIT, Limit
from optuna_esgd.optim.spikes import noted_spikes


class STDP(LimitedOptimizer):
    """Δw = +a⁺·w·(1 - w) where the input spiked before the neuron did, else -a⁻·w·(1 - w).

    A step is one forward pass of a mini-batch and no gradient: ``modules.LIFLayer`` notes what
    spiked, and the synapses of its neurons change by the mean of Δw over the examples. Neurons
    that did not spike in an example keep their synapses. Parameters that are no synapses of
    spiking layers stay, readouts among them: other species and recombination train those.

    Synapses outside of (0, 1), where w·(1 - w) would push them further out, stay as they are. What
    is the source's is the change for one example; the mean over a mini-batch, and what happens out
    of bounds, is ours.

    Args:
        params: As for ``torch.optim``.
        a_plus: a⁺, in [0, 1].
        a_minus: a⁻, in [0, 1].

    Raises:
        ConfigurationError: A rate is out of range.
    """

    limits: ClassVar[Mapping[str, Limit]] = {"a_plus": UNIT, "a_minus": UNIT}

    def __init__(self, params: Parameters, a_plus: float = 0.004, a_minus: float = 0.003) -> None:
        defaults = {"a_plus": a_plus, "a_minus": a_minus}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Tensor:  # type: ignore[override]
        """Run the mini-batch, then change the synapses; see ``optim.closure`` for the closure.

        Returns:
            The loss before the step.

        Raises:
            ConfigurationError: No spiking layer with synapses of this optimizer has run.
        """
        with noted_spikes() as noted:
            loss = as_closure(closure).loss()
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        ours = [spikes for spikes in noted if id(spikes.weights) in groups]
        if not ours:
            raise ConfigurationError(
                "STDP trains the synapses of spiking layers, but none with parameters of this "
                "optimizer has run. Build the model of modules.LIFLayer."
            )
        for weights, inputs, outputs in ours:
            group = groups[id(weights)]
            rate = stdp_rate(inputs, outputs, group["a_plus"], group["a_minus"])
            weights.add_(rate.to(weights.dtype) * (weights * (1 - weights)).clamp(min=0))
        return loss


def stdp_rate(inputs: Tensor, outputs: Tensor, a_plus: float, a_minus: float) -> Tensor:
    """(neurons, inputs) what w·(1 - w) is multiplied by: the mean over the examples of a batch.

    Args:
        inputs: (steps, batch, inputs) spikes.
        outputs: (steps, batch, neurons) spikes.
        a_plus: a⁺, for inputs that spiked no later than the neuron.
        a_minus: a⁻, for all others.
    """
    before, after = first_spikes(inputs), first_spikes(outputs)
    is_cause = before[:, None, :] <= after[:, :, None]
    has_spiked = (after < len(outputs))[:, :, None]
    return (torch.where(is_cause, a_plus, -a_minus) * has_spiked).mean(0)


def first_spikes(spikes: Tensor) -> Tensor:
    """The step of each first spike in (steps, ...), 0 or more; ``steps`` for none."""
    has_spiked = spikes > 0
    first = has_spiked.to(torch.int64).argmax(0)
    return torch.where(has_spiked.any(0), first, len(spikes))
