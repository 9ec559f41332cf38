"""Steps that grow while the gradient keeps its sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.species.base import Setting, Species


class Rprop(Species):
    """Rprop (Riedmiller & Braun 1993), for full batches. Searches ``lr``, the size of first steps.

    ``eta_minus`` and ``eta_plus``, ``step_size_min`` and ``step_size_max`` are fixed to torch's
    values unless given.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {"lr": FloatRange(1e-4, 1e-1, "log")}

    def __init__(self, *, name: str = "Rprop", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.Rprop, name=name, gradients_per_step=1, **hyperparameters)
