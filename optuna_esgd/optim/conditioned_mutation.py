"""Mutations that are kept if the loss allows: gradient descent without gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from optuna_esgd.optim.arithmetic import arithmetic
from optuna_esgd.optim.limited_optimizer import Parameters
from optuna_esgd.optim.limits import NOT_NEGATIVE, POSITIVE, POSITIVE_OR_INF, Limit, check_limits
from optuna_esgd.optim.rule import Evaluation, Part, Rule
from optuna_esgd.optim.rule_optimizer import RuleOptimizer


class ConditionedMutation(RuleOptimizer):
    """Mutate all weights by N(0, σ²); keep it with probability min(1, exp(-β·ΔU)).

    Whitelam, Selin, Park & Tamblyn 2021 ("Correspondence between neuroevolution and gradient
    descent"), Eqs. 1-3: for small σ the mean motion is that of gradient descent with learning
    rate β·σ²/2, and for β = inf that of normalised gradient descent with σ/√(2π). Where the loss
    curves, with a = σ·tr(H) / (2·|g|), a large network accepts the share Φ(-a) and its drift at
    β = inf falls by exp(-a²/2): a low share says that σ is too large.

    A step is two evaluations of the loss on one mini-batch, without gradients. What is not kept
    is undone bit by bit; a loss that is NaN is never accepted. The draws of all groups are one
    mutation, each with its own σ; β is one for all.

    Args:
        params: As for ``torch.optim``.
        sigma: Standard deviation of a mutation, per weight; see ``sigma_for_lr``.
        beta: Inverse temperature, above 0; inf keeps what does not raise the loss.
        generator: See ``RuleOptimizer``.
    """

    limits: ClassVar[Mapping[str, Limit]] = {"sigma": NOT_NEGATIVE, "beta": POSITIVE_OR_INF}
    shared: ClassVar[frozenset[str]] = frozenset({"beta"})

    def __init__(
        self,
        params: Parameters,
        sigma: float = 1e-3,
        beta: float = math.inf,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(params, {"sigma": sigma, "beta": beta}, generator)

    def rule(self) -> Rule:
        """The rule below."""
        return ConditionedMutationRule()


class ConditionedMutationRule(Rule):
    """θ' = θ + σ·N(0, I); θ ← θ' with probability min(1, exp(-β·(U(θ') - U(θ))))."""

    hyperparameters = frozenset({"sigma", "beta"})
    optional = frozenset()
    n_evaluations = 2
    uses_gradients = False
    draws = True

    def advance(self, index: int, part: Part, evaluation: Evaluation) -> None:
        """Propose after the first evaluation, keep or undo after the second."""
        assert part.draws is not None  # noqa: S101  (the rule draws)
        parameters, beta = part.parameters, part.hyperparameters["beta"]
        dtype = arithmetic(parameters)
        if index == 0:
            part.work["kept"] = parameters.clone()
            part.work["loss"] = evaluation.losses.clone()
            sigma = part.hyperparameters["sigma"].to(dtype)
            parameters.add_(part.draws.normal(0, dtype).mul_(sigma))
            return
        before, after = part.work["loss"].to(beta), evaluation.losses.to(beta)
        share = torch.exp(-beta * (after - before))
        # The first condition besides, because inf · 0 is NaN; where a loss is NaN both are false.
        is_kept = (after <= before) | (part.draws.uniform(beta.dtype) < share)
        parameters.copy_(torch.where(is_kept, parameters, part.work["kept"]))


def sigma_for_lr(lr: float, beta: float = math.inf) -> float:
    """The σ whose mean motion is gradient descent's with this learning rate.

    At β = inf it is that of normalised gradient descent, θ ← θ - lr·g/|g|: σ = lr·√(2π); else of
    θ ← θ - lr·g: σ = √(2·lr/β) (Whitelam et al. 2021).

    Raises:
        ConfigurationError: Not above 0.
    """
    check_limits({"lr": POSITIVE, "beta": POSITIVE_OR_INF}, {"lr": lr, "beta": beta})
    return lr * math.sqrt(2 * math.pi) if math.isinf(beta) else math.sqrt(2 * lr / beta)
