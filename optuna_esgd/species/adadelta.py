"""Adagrad with a memory that fades, and units that match."""

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


class Adadelta(Species):
    """Adadelta (Zeiler 2012). Searches ``lr``, ``rho`` and ``weight_decay``."""

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-2, 10.0, "log"),
        "rho": FloatRange(0.8, 0.99, "one_minus"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
    }

    def __init__(self, *, name: str = "Adadelta", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.Adadelta, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        return AdadeltaUpdate()


class AdadeltaUpdate(BatchedUpdate):
    """v ← ρv + (1-ρ)g²; δ = √(u+ε) / √(v+ε) · g; u ← ρu + (1-ρ)δ²; θ ← θ - lr·δ.

    Zeiler 2012, Algorithm 1.
    """

    hyperparameters = frozenset({"lr", "rho", "eps", "weight_decay"})
    elementwise = ("square_avg", "acc_delta")
    counters: ClassVar[Mapping[str, float]] = {"step": 0.0}

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
        weight, eps = 1 - hyperparameters["rho"], hyperparameters["eps"].to(dtype)
        square = blend_(state["square_avg"], gradients * gradients, weight)
        # Divided before the root is taken: the same, and the state itself is left alone.
        delta = ((state["acc_delta"].to(dtype) + eps) / (square + eps)).sqrt_().mul_(gradients)
        parameters.addcmul_(delta, -hyperparameters["lr"].to(dtype))
        blend_(state["acc_delta"], delta * delta, weight)
