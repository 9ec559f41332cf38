"""Synapses that learn from the order of spikes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from optuna_esgd import optim
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.spikes import spiking_weights
from optuna_esgd.species.base import Setting, Species


class STDP(Species):
    """Spike-timing-dependent plasticity (after Vaila 2021), for models with spiking layers.

    Searches ``a_plus`` and ``a_minus``. A step costs one evaluation of the loss and no gradient.
    It listens to the layers of one model, so a population with this species trains row by row.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "a_plus": FloatRange(1e-3, 1e-1, "log"),
        "a_minus": FloatRange(1e-3, 1e-1, "log"),
    }
    listens_to_layers = True

    def __init__(self, *, name: str = "STDP", **hyperparameters: Setting) -> None:
        super().__init__(optim.STDP, name=name, gradients_per_step=1, **hyperparameters)
        self.gradients_per_step, self.forwards_per_step = 0, 1

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model without spiking synapses to train."""
        if not any(weights.requires_grad for weights in spiking_weights(model)):
            raise ConfigurationError(
                f"Species {self.name!r} trains spiking layers, but {type(model).__name__} has "
                "none that can be trained. Build the model of modules.LIFLayer, or leave this "
                "species out."
            )
