"""Stochastic gradient descent with momentum."""

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


class SGD(Species):
    """SGD with momentum, or Nesterov's (Sutskever et al. 2013) where ``nesterov=True``.

    Searches ``lr``, ``momentum`` and ``weight_decay``.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-3, 1.0, "log"),
        "momentum": FloatRange(0.5, 0.99, "one_minus"),
        "weight_decay": FloatRange(1e-6, 1e-2, "log"),
        "nesterov": False,
        "dampening": 0.0,
    }

    def __init__(self, *, name: str = "SGD", **hyperparameters: Setting) -> None:
        super().__init__(torch.optim.SGD, name=name, gradients_per_step=1, **hyperparameters)

    def batched_update(self) -> BatchedUpdate:
        """The rule below."""
        has_momentum = "momentum" in self.space or bool(self.fixed.get("momentum", 0))
        return SGDUpdate(has_momentum=has_momentum)


class SGDUpdate(BatchedUpdate):
    """v ← μ·v + g; θ ← θ - lr·v, or θ - lr·(g + μ·v) in the rows with Nesterov's momentum.

    Args:
        has_momentum: Whether μ is not 0 for good.
    """

    hyperparameters = frozenset({"lr", "momentum", "weight_decay", "nesterov"})
    optional = frozenset({"momentum", "weight_decay", "nesterov"})

    def __init__(self, *, has_momentum: bool) -> None:
        self.elementwise = ("momentum_buffer",) if has_momentum else ()

    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """See the class."""
        dtype = arithmetic(parameters)
        lr, momentum = hyperparameters["lr"], hyperparameters.get("momentum")
        gradients = with_weight_decay(
            gradients, parameters, hyperparameters.get("weight_decay"), dtype
        )
        if momentum is None:
            parameters.addcmul_(gradients, -lr.to(dtype))
            return
        # Zero at first, so that the first v is g: as in torch, as long as dampening is 0.
        velocity = state["momentum_buffer"].mul_(momentum.to(dtype)).add_(gradients)
        nesterov = hyperparameters.get("nesterov")
        if nesterov is None:
            parameters.addcmul_(velocity, -lr.to(dtype))
            return
        # In one expression for both kinds of rows: θ - lr·(n·g + (1 + n·(μ - 1))·v), n = 0 or 1.
        parameters.addcmul_(gradients, (-lr * nesterov).to(dtype))
        parameters.addcmul_(velocity, (-lr * (1 + nesterov * (momentum - 1))).to(dtype))
