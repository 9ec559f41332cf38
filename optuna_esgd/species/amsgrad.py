"""Adam that never forgets how large a gradient was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.species.adam import Adam, adam_update
from optuna_esgd.species.base import Setting, Species


class AMSGrad(Species):
    """AMSGrad (Reddi et al. 2018): Adam that divides by the largest second moment so far.

    Searches ``lr``, ``beta1``, ``beta2`` and ``weight_decay``.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {**Adam.defaults, "amsgrad": True}

    def __init__(self, *, name: str = "AMSGrad", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.Adam, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """Adam's rule with the maximum kept."""
        return adam_update(self)
