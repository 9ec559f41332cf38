"""Adam with a rectified warm-up."""

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


class RAdam(Species):
    """RAdam (Liu et al. 2020). Searches ``lr``, ``beta1``, ``beta2`` and ``weight_decay``."""

    defaults: ClassVar[Mapping[str, Setting]] = Adam.defaults

    def __init__(self, *, name: str = "RAdam", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.RAdam, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        return RAdamUpdate()


class RAdamUpdate(BatchedUpdate):
    """θ ← θ - lr·r_t·m̂ / √v̂ once the variance of v can be told (ρ_t > 5), else θ - lr·m̂.

    ρ_∞ = 2/(1-β₂) - 1, ρ_t = ρ_∞ - 2t·β₂ᵗ/(1-β₂ᵗ),
    r_t = √((ρ_t-4)(ρ_t-2)ρ_∞ / ((ρ_∞-4)(ρ_∞-2)ρ_t)) (Liu et al. 2020, Algorithm 2).
    """

    hyperparameters = frozenset({"lr", "beta1", "beta2", "eps", "weight_decay"})
    elementwise = ("exp_avg", "exp_avg_sq")
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
        square = blend_(state["exp_avg_sq"], gradients * gradients, 1 - beta2)
        correction = 1 - beta2**t
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2**t / correction
        is_rectified = rho > 5
        # Where it is not, rho takes a harmless value instead of one whose root is NaN.
        rho = torch.where(is_rectified, rho, rho_inf)
        rectified = (
            (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        ).sqrt()
        step_size = lr / (1 - beta1**t)
        adaptive = (step_size * rectified * correction.sqrt()).to(dtype)
        root = square.sqrt().add_(hyperparameters["eps"].to(dtype))
        factor = torch.where(is_rectified, root.reciprocal_().mul_(adaptive), step_size.to(dtype))
        parameters.sub_(factor.mul_(mean))
