"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.species.adam import Adam, adam_update
from optuna_esgd.species.base import Setting, Species


class AdamW(Species):
    """AdamW (Loshchilov & Hutter 2019): weights shrink by lr times ``weight_decay`` per step.

    Searches ``lr``, ``beta1``, ``beta2`` and ``weight_decay``.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        **Adam.defaults,
        "weight_decay": FloatRange(1e-4, 1.0, "log"),
    }

    def __init__(self, *, name: str = "AdamW", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.AdamW, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """Adam's rule with its weight decay decoupled."""
        return adam_update(self, decouples_weight_decay=True)
