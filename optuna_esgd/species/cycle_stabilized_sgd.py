"""SGD for learning rates where it would run into cycles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from optuna_esgd import optim
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.cycle_stabilized_sgd import CycleUpdate
from optuna_esgd.optim.rule import Rule
from optuna_esgd.species.base import Setting, Species


class CycleStabilizedSGD(Species):
    """Cycle-stabilised SGD, after Smorodin 2021. Searches ``lr`` and ``weight_decay``.

    ``depth`` is 2 and ``momentum`` 0 unless given. Individuals of one depth train batched.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-3, 3.0, "log"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
        "depth": 2,
        "momentum": 0.0,
    }

    def __init__(self, *, name: str = "CycleStabilizedSGD", **hyperparameters: Setting) -> None:
        super().__init__(
            optim.CycleStabilizedSGD, name=name, gradients_per_step=1, **hyperparameters
        )

    def batched_update(self) -> Rule | None:
        """The optimizer's own rule, for one depth."""
        depth = self.fixed.get("depth")
        if not isinstance(depth, int):
            return None
        has_momentum = "momentum" in self.space or bool(self.fixed.get("momentum", 0))
        return CycleUpdate(depth=depth, has_momentum=has_momentum)
