"""Descent on the local entropy, which prefers wide valleys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.optim.arithmetic import arithmetic, blend_, with_weight_decay
from optuna_esgd.optim.limited_optimizer import Parameters
from optuna_esgd.optim.limits import BELOW_ONE, COUNT, FLAG, NOT_NEGATIVE, SHARE, Limit
from optuna_esgd.optim.rule import Evaluation, Part, Rule
from optuna_esgd.optim.rule_optimizer import RuleOptimizer


class EntropySGD(RuleOptimizer):
    """Entropy-SGD (Chaudhari et al. 2017, arXiv 1611.01838, Algorithm 1).

    Descends F(x) = -log ∫ exp(-f(x') - γ/2·|x - x'|²) dx', whose gradient is γ·(x - ⟨x'⟩); the
    mean is estimated by Langevin dynamics of x' around x. As in the source's experiments the
    outer step leaves out the factor γ. ``weight_decay`` is part of f. Ours: the inner momentum is
    a heavy ball that begins anew with each step.

    A step is ``langevin_steps`` gradients, each on a fresh mini-batch. Between steps the weights
    are x. Scoping raises γ with every step: γ_t = γ·(1 + ``scoping``)^t.

    Args:
        params: As for ``torch.optim``.
        lr: η of the outer step.
        momentum: Of the outer step.
        nesterov: Nesterov's outer momentum instead of the heavy ball.
        weight_decay: L2 penalty.
        langevin_steps: L; the same in all groups.
        inner_lr: η' of the Langevin dynamics.
        inner_momentum: Of the Langevin dynamics.
        gamma: γ_0, how closely x' is held to x.
        scoping: γ_1.
        noise: ε of the Langevin dynamics.
        averaging: The weight of the newest x' in the mean, in (0, 1].
        generator: See ``RuleOptimizer``.
    """

    limits: ClassVar[Mapping[str, Limit]] = {
        "lr": NOT_NEGATIVE,
        "momentum": BELOW_ONE,
        "nesterov": FLAG,
        "weight_decay": NOT_NEGATIVE,
        "langevin_steps": COUNT,
        "inner_lr": NOT_NEGATIVE,
        "inner_momentum": BELOW_ONE,
        "gamma": NOT_NEGATIVE,
        "scoping": NOT_NEGATIVE,
        "noise": NOT_NEGATIVE,
        "averaging": SHARE,
    }
    shared: ClassVar[frozenset[str]] = frozenset({"langevin_steps"})

    def __init__(  # noqa: PLR0913, PLR0917  (the source's hyperparameters)
        self,
        params: Parameters,
        lr: float = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,  # noqa: FBT001, FBT002, RUF100  (as in torch.optim)
        weight_decay: float = 0.0,
        langevin_steps: int = 20,
        inner_lr: float = 0.1,
        inner_momentum: float = 0.0,
        gamma: float = 1e-4,
        scoping: float = 1e-3,
        noise: float = 1e-4,
        averaging: float = 0.25,
        generator: torch.Generator | None = None,
    ) -> None:
        if nesterov and not momentum:
            raise ConfigurationError(f"nesterov needs a momentum above 0, got {momentum!r}.")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "langevin_steps": langevin_steps,
            "inner_lr": inner_lr,
            "inner_momentum": inner_momentum,
            "gamma": gamma,
            "scoping": scoping,
            "noise": noise,
            "averaging": averaging,
        }
        super().__init__(params, defaults, generator)

    def rule(self) -> Rule:
        """The rule below."""
        return EntropyRule(
            langevin_steps=self.param_groups[0]["langevin_steps"],
            has_momentum=self._uses("momentum"),
        )


class EntropyRule(Rule):
    """L times: dx' = ∇f(x') - γ(x - x'); x' ← x' - η'dx' + √η'·ε·N; μ ← (1-α)μ + αx'.

    Then x ← x - η(x - μ).

    Args:
        langevin_steps: L.
        has_momentum: Whether the outer momentum is not 0 for good.
    """

    hyperparameters = frozenset(EntropySGD.limits) - {"langevin_steps"}
    optional = frozenset(
        {"momentum", "nesterov", "weight_decay", "inner_momentum", "scoping", "noise"}
    )
    variants = frozenset({"langevin_steps"})
    counters: ClassVar[Mapping[str, float]] = {"step": 0.0}
    uses_fresh_batches = True
    draws = True

    def __init__(self, *, langevin_steps: int, has_momentum: bool) -> None:
        self.n_evaluations = langevin_steps
        self.elementwise = ("momentum_buffer",) if has_momentum else ()

    def begin(self, part: Part) -> None:
        """x', μ ← x."""
        part.work["origin"] = part.parameters.clone()
        part.work["average"] = part.parameters.to(arithmetic(part.parameters), copy=True)

    def advance(self, index: int, part: Part, evaluation: Evaluation) -> None:
        """One step of the Langevin dynamics, and after the last one the outer step."""
        assert evaluation.gradients is not None  # noqa: S101  (the rule uses gradients)
        parameters, columns = part.parameters, part.hyperparameters
        dtype = arithmetic(parameters)
        drift = with_weight_decay(
            evaluation.gradients, parameters, columns.get("weight_decay"), dtype
        )
        offset = part.work["origin"].to(dtype) - parameters.to(dtype)
        drift = torch.addcmul(drift, offset, -self._gamma(part).to(dtype))
        inner_momentum = columns.get("inner_momentum")
        if inner_momentum is not None:
            if index > 0:
                drift = part.work["velocity"].mul_(inner_momentum.to(dtype)).add_(drift)
            part.work["velocity"] = drift
        parameters.addcmul_(drift, -columns["inner_lr"].to(dtype))
        noise = columns.get("noise")
        if noise is not None and part.draws is not None:
            scale = (columns["inner_lr"].sqrt() * noise).to(dtype)
            parameters.add_(part.draws.normal(index, dtype).mul_(scale))
        blend_(part.work["average"], parameters.to(dtype), columns["averaging"])
        if index + 1 == self.n_evaluations:
            self._descend(part, dtype)

    def _gamma(self, part: Part) -> Tensor:
        gamma, scoping = part.hyperparameters["gamma"], part.hyperparameters.get("scoping")
        return gamma if scoping is None else gamma * (1 + scoping) ** part.state["step"].to(gamma)

    def _descend(self, part: Part, dtype: torch.dtype) -> None:
        columns, origin = part.hyperparameters, part.work["origin"].to(dtype)
        direction = origin - part.work["average"]
        momentum, nesterov = columns.get("momentum"), columns.get("nesterov")
        if momentum is not None:
            velocity = part.state["momentum_buffer"].mul_(momentum.to(dtype)).add_(direction)
            looking_ahead = torch.addcmul(direction, velocity.to(dtype), momentum.to(dtype))
            direction = (
                velocity.to(dtype)
                if nesterov is None
                else torch.where(nesterov != 0, looking_ahead, velocity.to(dtype))
            )
        part.parameters.copy_(torch.addcmul(origin, direction, -columns["lr"].to(dtype)))
        part.state["step"].add_(1)
