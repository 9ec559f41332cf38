"""Adam, and the rule it shares with AdamW and AMSGrad."""

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


class Adam(Species):
    """Adam (Kingma & Ba 2015). Searches ``lr``, ``beta1``, ``beta2`` and ``weight_decay``."""

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-4, 1e-1, "log"),
        "beta1": FloatRange(0.8, 0.99, "one_minus"),
        "beta2": FloatRange(0.9, 0.9999, "one_minus"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
    }

    def __init__(self, *, name: str = "Adam", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.Adam, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        return adam_update(self)


def adam_update(species: Species, *, decouples_weight_decay: bool = False) -> BatchedUpdate:
    """The rule of an Adam species, in its variant."""
    settings = {"decoupled_weight_decay": decouples_weight_decay, **species.fixed}
    return AdamUpdate(
        keeps_maximum=bool(settings.get("amsgrad")),
        decouples_weight_decay=bool(settings["decoupled_weight_decay"]),
    )


class AdamUpdate(BatchedUpdate):
    """m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; θ ← θ - lr·m̂ / (√v̂ + ε).

    m̂ = m / (1-β₁ᵗ), v̂ = v / (1-β₂ᵗ) (Kingma & Ba 2015, Algorithm 1).

    Args:
        keeps_maximum: Divide by the largest v so far (AMSGrad: Reddi et al. 2018).
        decouples_weight_decay: Shrink weights instead of adding to the gradient (AdamW:
            Loshchilov & Hutter 2019).

    Attributes:
        keeps_maximum: As given.
        decouples_weight_decay: As given.
    """

    hyperparameters = frozenset({"lr", "beta1", "beta2", "eps", "weight_decay"})
    variants = frozenset({"amsgrad", "decoupled_weight_decay"})
    counters: ClassVar[Mapping[str, float]] = {"step": 0.0}

    def __init__(self, *, keeps_maximum: bool, decouples_weight_decay: bool) -> None:
        self.keeps_maximum = keeps_maximum
        self.decouples_weight_decay = decouples_weight_decay
        self.elementwise = ("exp_avg", "exp_avg_sq")
        if keeps_maximum:
            self.elementwise += ("max_exp_avg_sq",)

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
        weight_decay = hyperparameters.get("weight_decay")
        if self.decouples_weight_decay and weight_decay is not None:
            parameters.mul_((1 - lr * weight_decay).to(dtype))
            weight_decay = None
        gradients = with_weight_decay(gradients, parameters, weight_decay, dtype)
        t = state["step"].add_(1).to(lr.dtype)
        mean = blend_(state["exp_avg"], gradients, 1 - beta1)
        square = blend_(state["exp_avg_sq"], gradients * gradients, 1 - beta2)
        if self.keeps_maximum:
            largest = state["max_exp_avg_sq"]
            square = largest.copy_(torch.maximum(largest.to(dtype), square)).to(dtype)
        root = square.sqrt().div_((1 - beta2**t).sqrt().to(dtype))
        root.add_(hyperparameters["eps"].to(dtype))
        torch.div(mean, root, out=root)
        parameters.addcmul_(root, (-lr / (1 - beta1**t)).to(dtype))
