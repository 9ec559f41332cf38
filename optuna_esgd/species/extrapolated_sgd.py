"""Gradients at a point ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from optuna_esgd import optim
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.extrapolated_sgd import extrapolation_rule
from optuna_esgd.optim.rule import Rule
from optuna_esgd.species.base import Setting, Species


class ExtrapolatedSGD(Species):
    """SGD with gradients at an extrapolated point, after Xu et al. 2019.

    Searches ``lr``, ``extrapolation_lr``, ``momentum`` and ``weight_decay``. ``mode`` is "past"
    unless given; mode "nesterov" has no ``extrapolation_lr``.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-3, 1.0, "log"),
        "extrapolation_lr": FloatRange(1e-3, 1.0, "log"),
        "momentum": FloatRange(0.5, 0.99, "one_minus"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
        "mode": "past",
    }

    def __init__(self, *, name: str = "ExtrapolatedSGD", **hyperparameters: Setting) -> None:
        if hyperparameters.get("mode") == "nesterov":
            hyperparameters.setdefault("extrapolation_lr", None)
        super().__init__(optim.ExtrapolatedSGD, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> Rule | None:
        """The optimizer's own rule of the mode."""
        if "mode" not in self.fixed:
            return None
        has_momentum = "momentum" in self.space or bool(self.fixed.get("momentum", 0))
        return extrapolation_rule(self.fixed["mode"], has_momentum=has_momentum)
