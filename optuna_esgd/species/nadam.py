"""Adam with Nesterov's momentum."""

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


class NAdam(Species):
    """NAdam (Dozat 2016). Searches ``lr``, ``beta1``, ``beta2`` and ``weight_decay``."""

    defaults: ClassVar[Mapping[str, Setting]] = Adam.defaults

    def __init__(self, *, name: str = "NAdam", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.NAdam, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        return NAdamUpdate()


class NAdamUpdate(BatchedUpdate):
    """θ ← θ - lr·(μ_{t+1}·m / (1-Πμ_{1..t+1}) + (1-μ_t)·g / (1-Πμ_{1..t})) / (√v̂ + ε).

    μ_t = β₁(1 - ½·0.96^(t·ψ)), ψ = ``momentum_decay`` (Dozat 2016, Algorithm 2).
    """

    hyperparameters = frozenset({"lr", "beta1", "beta2", "eps", "weight_decay", "momentum_decay"})
    elementwise = ("exp_avg", "exp_avg_sq")
    counters: ClassVar[Mapping[str, float]] = {"step": 0.0, "mu_product": 1.0}

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
        decay = hyperparameters["momentum_decay"]
        gradients = with_weight_decay(
            gradients, parameters, hyperparameters.get("weight_decay"), dtype
        )
        t = state["step"].add_(1).to(lr.dtype)
        mu, next_mu = (beta1 * (1 - 0.5 * 0.96 ** (time * decay)) for time in (t, t + 1))
        product = state["mu_product"].mul_(mu.float()).to(lr.dtype)
        mean = blend_(state["exp_avg"], gradients, 1 - beta1)
        square = blend_(state["exp_avg_sq"], gradients * gradients, 1 - beta2)
        root = square.div((1 - beta2**t).to(dtype)).sqrt_().add_(hyperparameters["eps"].to(dtype))
        update = gradients * (lr * (1 - mu) / (1 - product)).to(dtype)
        update.addcmul_(mean, (lr * next_mu / (1 - product * next_mu)).to(dtype))
        parameters.sub_(update.div_(root))
