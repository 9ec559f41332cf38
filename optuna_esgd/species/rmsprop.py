"""Gradients divided by a running root mean square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.arithmetic import arithmetic, blend_, with_weight_decay
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.optim.rule import State
from optuna_esgd.species.base import Setting, Species


class RMSprop(Species):
    """RMSprop (Tieleman & Hinton 2012). Searches ``lr``, ``alpha`` and ``weight_decay``."""

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-4, 1e-1, "log"),
        "alpha": FloatRange(0.9, 0.999, "one_minus"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
    }

    def __init__(self, *, name: str = "RMSprop", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.RMSprop, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        has_momentum = "momentum" in self.space or bool(self.fixed.get("momentum", 0))
        return RMSpropUpdate(has_momentum=has_momentum)


class RMSpropUpdate(BatchedUpdate):
    """v ← αv + (1-α)g²; u ← μu + g / (√v + ε); θ ← θ - lr·u.

    Args:
        has_momentum: Whether μ is not 0 for good.
    """

    hyperparameters = frozenset({"lr", "alpha", "eps", "weight_decay", "momentum"})
    optional = frozenset({"weight_decay", "momentum"})
    counters: ClassVar[Mapping[str, float]] = {"step": 0.0}

    def __init__(self, *, has_momentum: bool) -> None:
        self.elementwise = ("square_avg", "momentum_buffer") if has_momentum else ("square_avg",)

    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """See the class."""
        dtype = arithmetic(parameters)
        gradients = with_weight_decay(
            gradients, parameters, hyperparameters.get("weight_decay"), dtype
        )
        state["step"].add_(1)
        square = blend_(state["square_avg"], gradients * gradients, 1 - hyperparameters["alpha"])
        update = gradients / square.sqrt().add_(hyperparameters["eps"].to(dtype))
        momentum = hyperparameters.get("momentum")
        if momentum is not None:
            update = state["momentum_buffer"].mul_(momentum.to(dtype)).add_(update)
        parameters.addcmul_(update, -hyperparameters["lr"].to(dtype))
