"""Adam with the largest gradient in place of the second moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from optuna_esgd.optim.arithmetic import arithmetic, blend_, with_weight_decay
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.optim.rule import State
from optuna_esgd.species.adam import Adam
from optuna_esgd.species.base import Setting, Species


class Adamax(Species):
    """Adamax (Kingma & Ba 2015). Searches ``lr``, ``beta1``, ``beta2`` and ``weight_decay``."""

    defaults: ClassVar[Mapping[str, Setting]] = Adam.defaults

    def __init__(self, *, name: str = "Adamax", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.Adamax, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        return AdamaxUpdate()


class AdamaxUpdate(BatchedUpdate):
    """m ← β₁m + (1-β₁)g; u ← max(β₂u, |g| + ε); θ ← θ - lr / (1-β₁ᵗ) · m/u.

    Kingma & Ba 2015, Algorithm 2; the ε is torch's.
    """

    hyperparameters = frozenset({"lr", "beta1", "beta2", "eps", "weight_decay"})
    elementwise = ("exp_avg", "exp_inf")
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
        lr, beta1, beta2 = (hyperparameters[name] for name in ("lr", "beta1", "beta2"))
        gradients = with_weight_decay(
            gradients, parameters, hyperparameters.get("weight_decay"), dtype
        )
        t = state["step"].add_(1).to(lr.dtype)
        mean = blend_(state["exp_avg"], gradients, 1 - beta1)
        size = gradients.abs().add_(hyperparameters["eps"].to(dtype))
        largest = torch.maximum(state["exp_inf"].to(dtype) * beta2.to(dtype), size)
        state["exp_inf"].copy_(largest)
        parameters.addcmul_(mean / largest, (-lr / (1 - beta1**t)).to(dtype))
