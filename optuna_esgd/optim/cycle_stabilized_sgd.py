"""SGD that stays stable at learning rates where plain SGD runs into cycles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from optuna_esgd.optim.arithmetic import arithmetic, with_weight_decay
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.optim.limited_optimizer import Parameters
from optuna_esgd.optim.limits import BELOW_ONE, COUNT, NOT_NEGATIVE, Limit
from optuna_esgd.optim.rule import Rule, State
from optuna_esgd.optim.rule_optimizer import RuleOptimizer


class CycleStabilizedSGD(RuleOptimizer):
    """SGD with a Fejér average over its last mapped points, after Smorodin 2021 (ATBP 13(2):36).

    With f(x) = x - lr·g(x): x ← Σ_j a_j·f(x_{n-j+1}), j = 1..N. At N = 1 it is SGD. On a
    quadratic of curvature 1 it is stable up to lr 4 at depth 2, where SGD ends at lr 2.

    Ours: the past points are kept as their distance from the weights, zero before there are any,
    so that they stay meaningful where the weights are replaced; and f takes momentum.

    Args:
        params: As for ``torch.optim``.
        lr: Learning rate of f.
        depth: N, mapped points averaged over; the same in all groups.
        momentum: Heavy ball in f.
        weight_decay: L2 penalty.
    """

    limits: ClassVar[Mapping[str, Limit]] = {
        "lr": NOT_NEGATIVE,
        "depth": COUNT,
        "momentum": BELOW_ONE,
        "weight_decay": NOT_NEGATIVE,
    }
    shared: ClassVar[frozenset[str]] = frozenset({"depth"})

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        depth: int = 2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "depth": depth, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def rule(self) -> Rule:
        """The rule below."""
        return CycleUpdate(
            depth=self.param_groups[0]["depth"], has_momentum=self._uses("momentum")
        )


def fejer_coefficients(depth: int) -> tuple[float, ...]:
    """a_j = 2·tan(π/(2(N+1)))·(1 - j/(N+1))·sin(πj/(N+1)), j = 1..N; their sum is 1."""
    angle = math.pi / (depth + 1)
    return tuple(
        2 * math.tan(angle / 2) * (1 - j / (depth + 1)) * math.sin(angle * j)
        for j in range(1, depth + 1)
    )


class CycleUpdate(BatchedUpdate):
    """v ← μv + g; x ← a_1·(x - lr·v) + Σ_{j>1} a_j·(x + o_{j-1}), o the offsets of past points.

    Args:
        depth: N.
        has_momentum: Whether μ is not 0 for good.
    """

    hyperparameters = frozenset({"lr", "momentum", "weight_decay"})
    optional = frozenset({"momentum", "weight_decay"})
    variants = frozenset({"depth"})

    def __init__(self, *, depth: int, has_momentum: bool) -> None:
        self._coefficients = fejer_coefficients(depth)
        self._offsets = tuple(f"offset{number}" for number in range(1, depth))
        self.elementwise = (*(("momentum_buffer",) if has_momentum else ()), *self._offsets)

    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """See the class."""
        dtype = arithmetic(parameters)
        direction = with_weight_decay(
            gradients, parameters, hyperparameters.get("weight_decay"), dtype
        )
        momentum = hyperparameters.get("momentum")
        if momentum is not None:
            velocity = state["momentum_buffer"].mul_(momentum.to(dtype)).add_(direction)
            direction = velocity.to(dtype)
        mapped = [direction * -hyperparameters["lr"].to(dtype)]
        mapped += [state[name].to(dtype) for name in self._offsets]
        move = torch.zeros_like(direction)
        for coefficient, offset in zip(self._coefficients, mapped, strict=True):
            move = move.add(offset, alpha=coefficient)
        # All are computed before any is written: they are each other's.
        offsets = [offset - move for offset in mapped[:-1]]
        for name, offset in zip(self._offsets, offsets, strict=True):
            state[name].copy_(offset)
        parameters.add_(move)
