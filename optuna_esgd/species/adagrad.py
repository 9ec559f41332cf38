"""Gradients divided by the root of the sum of all their squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.arithmetic import arithmetic, with_weight_decay
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.optim.rule import State
from optuna_esgd.species.base import Setting, Species


class Adagrad(Species):
    """Adagrad (Duchi et al. 2011). Searches ``lr`` and ``weight_decay``."""

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-3, 1.0, "log"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
    }

    def __init__(self, *, name: str = "Adagrad", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.Adagrad, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        return AdagradUpdate()


class AdagradUpdate(BatchedUpdate):
    """s ← s + g²; θ ← θ - lr / (1 + (t-1)·``lr_decay``) · g / (√s + ε)."""

    hyperparameters = frozenset({"lr", "lr_decay", "eps", "weight_decay"})
    optional = frozenset({"weight_decay", "lr_decay"})
    elementwise = ("sum",)
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
        lr, decay = hyperparameters["lr"], hyperparameters.get("lr_decay")
        t = state["step"].add_(1).to(lr.dtype)
        if decay is not None:
            lr = lr / (1 + (t - 1) * decay)
        total = state["sum"].addcmul_(gradients, gradients)
        root = total.to(dtype).sqrt().add_(hyperparameters["eps"].to(dtype))
        parameters.addcmul_(torch.div(gradients, root, out=root), -lr.to(dtype))
