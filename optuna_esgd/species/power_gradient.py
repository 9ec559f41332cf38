"""Species that see powers of the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from optuna_esgd import optim
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.arithmetic import arithmetic
from optuna_esgd.optim.power_gradient import power_gradient
from optuna_esgd.optim.rule import Rule, State
from optuna_esgd.species.adam import Adam, AdamUpdate
from optuna_esgd.species.base import Setting, Species
from optuna_esgd.species.sgd import SGDUpdate

_POWERS = FloatRange(0.5, 1.0)


class PowerGradientSGD(Species):
    """SGD on sign(g)·|g|^H (Baiesi 2019).

    Searches ``lr``, ``momentum``, ``weight_decay`` and ``H``.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-3, 1.0, "log"),
        "momentum": FloatRange(0.5, 0.99, "one_minus"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
        "H": _POWERS,
        "nesterov": False,
    }

    def __init__(self, *, name: str = "PowerGradientSGD", **hyperparameters: Setting) -> None:
        super().__init__(
            optim.PowerGradientSGD, name=name, gradients_per_step=1, **hyperparameters
        )

    def batched_update(self) -> Rule:
        """SGD's rule with powers of the gradients."""
        has_momentum = "momentum" in self.space or bool(self.fixed.get("momentum", 0))
        return PowerSGDUpdate(has_momentum=has_momentum)


class PowerAMSGrad(Species):
    """AMSGrad on sign(g)·|g|^H (Baiesi 2019).

    Searches ``lr``, ``beta1``, ``beta2``, ``weight_decay`` and ``H``.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {**Adam.defaults, "H": _POWERS}

    def __init__(self, *, name: str = "PowerAMSGrad", **hyperparameters: Setting) -> None:
        super().__init__(optim.PowerAMSGrad, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> Rule:
        """AMSGrad's rule with powers of the gradients."""
        return PowerAdamUpdate(keeps_maximum=True, decouples_weight_decay=False)


class PowerSGDUpdate(SGDUpdate):
    """g ← sign(g)·|g|^H, then as SGD."""

    hyperparameters = SGDUpdate.hyperparameters | {"H"}

    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """See the class."""
        powers = _powers(parameters, gradients, hyperparameters["H"])
        super().step(parameters, powers, state, hyperparameters)


class PowerAdamUpdate(AdamUpdate):
    """g ← sign(g)·|g|^H, then as Adam."""

    hyperparameters = AdamUpdate.hyperparameters | {"H"}

    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """See the class."""
        powers = _powers(parameters, gradients, hyperparameters["H"])
        super().step(parameters, powers, state, hyperparameters)


def _powers(parameters: Tensor, gradients: Tensor, power: Tensor) -> Tensor:
    dtype = arithmetic(parameters)
    return power_gradient(gradients.to(dtype), power.to(dtype))
