"""Descent on the local entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from optuna_esgd import optim
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.entropy_sgd import EntropyRule
from optuna_esgd.optim.rule import Rule
from optuna_esgd.species.base import Setting, Species, ends


class EntropySGD(Species):
    """Entropy-SGD (Chaudhari et al. 2017).

    Searches ``lr``, ``momentum``, ``weight_decay``, ``inner_lr``, ``gamma`` and ``averaging``;
    the rest is fixed to the source's values unless given. Individuals that share a number of
    ``langevin_steps`` train batched; where it is searched they train one by one.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-1, 1.0, "log"),
        "momentum": FloatRange(0.5, 0.95, "one_minus"),
        "nesterov": False,
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
        "langevin_steps": 20,
        "inner_lr": FloatRange(1e-3, 1.0, "log"),
        "inner_momentum": 0.0,
        "gamma": FloatRange(1e-4, 1.0, "log"),
        "scoping": 1e-3,
        "noise": 1e-4,
        "averaging": FloatRange(0.1, 0.9),
    }

    def __init__(self, *, name: str = "EntropySGD", **hyperparameters: Setting) -> None:
        super().__init__(optim.EntropySGD, name=name, gradients_per_step=1, **hyperparameters)
        searched = self.space.get("langevin_steps")
        if searched is not None:
            self.gradients_per_step = max(end for end in ends(searched) if isinstance(end, int))

    def batched_update(self) -> Rule | None:
        """The optimizer's own rule, for one number of Langevin steps."""
        n_steps = self.fixed.get("langevin_steps")
        if not isinstance(n_steps, int):
            return None
        has_momentum = "momentum" in self.space or bool(self.fixed.get("momentum", 0))
        return EntropyRule(langevin_steps=n_steps, has_momentum=has_momentum)
