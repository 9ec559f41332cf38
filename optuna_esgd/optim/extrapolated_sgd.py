"""Gradients at a point ahead: for saddle points and large batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.optim.arithmetic import arithmetic, with_weight_decay
from optuna_esgd.optim.limited_optimizer import Parameters
from optuna_esgd.optim.limits import (
    BELOW_ONE,
    NOT_NEGATIVE,
    NOT_NEGATIVE_OR_NONE,
    Limit,
    one_of,
)
from optuna_esgd.optim.rule import Evaluation, Part, Rule
from optuna_esgd.optim.rule_optimizer import RuleOptimizer

Mode: TypeAlias = Literal["past", "extragradient", "nesterov"]


class ExtrapolatedSGD(RuleOptimizer):
    """SGD whose gradients are taken at an extrapolated point y, after Xu et al. 2019.

    arXiv 1901.10682. Where y is depends on the mode:

    - ``"past"`` (Popov 1980): y = x - η_e·g(last y), one gradient per step.
    - ``"extragradient"`` (Korpelevich 1976): y = x - η_e·g(x), two gradients on one mini-batch.
    - ``"nesterov"``: y = x - η·μ·v, along the momentum, one gradient per step. (torch's own
      Nesterov rewrites this in terms of y; here the weights between steps are x.)

    Then v ← μv + g(y) and x ← x - ηv. All modes move the weights to y before they evaluate the
    loss, so all need a closure. Weight decay is taken where the gradient is.

    Args:
        params: As for ``torch.optim``.
        lr: η.
        extrapolation_lr: η_e; ``lr`` if None. Not in mode ``"nesterov"``.
        mode: See above; the same in all groups.
        momentum: μ.
        weight_decay: L2 penalty.
    """

    limits: ClassVar[Mapping[str, Limit]] = {
        "lr": NOT_NEGATIVE,
        "extrapolation_lr": NOT_NEGATIVE_OR_NONE,
        "mode": one_of("past", "extragradient", "nesterov"),
        "momentum": BELOW_ONE,
        "weight_decay": NOT_NEGATIVE,
    }
    shared: ClassVar[frozenset[str]] = frozenset({"mode"})

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        extrapolation_lr: float | None = None,
        mode: Mode = "past",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        if mode == "nesterov" and extrapolation_lr is not None:
            raise ConfigurationError(
                "In mode 'nesterov' the momentum extrapolates; extrapolation_lr must be None, "
                f"got {extrapolation_lr!r}."
            )
        defaults = {
            "lr": lr,
            "extrapolation_lr": extrapolation_lr,
            "mode": mode,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def rule(self) -> Rule:
        """The rule of the mode."""
        return extrapolation_rule(
            self.param_groups[0]["mode"], has_momentum=self._uses("momentum")
        )


class ExtrapolationRule(Rule):
    """v ← μv + g(y); x ← x - ηv, with y as the mode says.

    Args:
        has_momentum: Whether μ is not 0 for good.
    """

    hyperparameters = frozenset({"lr", "extrapolation_lr", "momentum", "weight_decay"})
    optional = frozenset({"momentum", "weight_decay"})
    fallbacks: ClassVar[Mapping[str, str]] = {"extrapolation_lr": "lr"}
    variants = frozenset({"mode"})

    def __init__(self, *, has_momentum: bool) -> None:
        self.elementwise = ("momentum_buffer",) if has_momentum else ()

    def _gradient(self, part: Part, evaluation: Evaluation) -> Tensor:
        assert evaluation.gradients is not None  # noqa: S101  (the rule uses gradients)
        dtype = arithmetic(part.parameters)
        decay = part.hyperparameters.get("weight_decay")
        return with_weight_decay(evaluation.gradients, part.parameters, decay, dtype)

    def _descend(self, part: Part, gradient: Tensor) -> None:
        columns, direction = part.hyperparameters, gradient
        momentum = columns.get("momentum")
        if momentum is not None:
            velocity = part.state["momentum_buffer"].mul_(momentum.to(gradient.dtype))
            direction = velocity.add_(gradient).to(gradient.dtype)
        origin = part.work["origin"].to(gradient.dtype)
        lr = columns["lr"].to(gradient.dtype)
        part.parameters.copy_(torch.addcmul(origin, direction, -lr))


class PastRule(ExtrapolationRule):
    """y = x - η_e·g(last y)."""

    def __init__(self, *, has_momentum: bool) -> None:
        super().__init__(has_momentum=has_momentum)
        self.elementwise = (*self.elementwise, "past_gradient")

    def begin(self, part: Part) -> None:
        """Go to y."""
        part.work["origin"] = part.parameters.clone()
        dtype = arithmetic(part.parameters)
        step = -part.hyperparameters["extrapolation_lr"].to(dtype)
        part.parameters.addcmul_(part.state["past_gradient"].to(dtype), step)

    def advance(self, index: int, part: Part, evaluation: Evaluation) -> None:
        """Step from x, and remember the gradient."""
        del index
        gradient = self._gradient(part, evaluation)
        part.state["past_gradient"].copy_(gradient)
        self._descend(part, gradient)


class ExtragradientRule(ExtrapolationRule):
    """y = x - η_e·g(x)."""

    n_evaluations = 2

    def advance(self, index: int, part: Part, evaluation: Evaluation) -> None:
        """Go to y, then step from x."""
        gradient = self._gradient(part, evaluation)
        if index == 0:
            part.work["origin"] = part.parameters.clone()
            step = -part.hyperparameters["extrapolation_lr"].to(gradient.dtype)
            part.parameters.addcmul_(gradient, step)
        else:
            self._descend(part, gradient)


class NesterovRule(ExtrapolationRule):
    """y = x - η·μ·v."""

    hyperparameters = frozenset({"lr", "momentum", "weight_decay"})

    def begin(self, part: Part) -> None:
        """Go to y."""
        part.work["origin"] = part.parameters.clone()
        momentum = part.hyperparameters.get("momentum")
        if momentum is not None:
            dtype = arithmetic(part.parameters)
            step = (-part.hyperparameters["lr"] * momentum).to(dtype)
            part.parameters.addcmul_(part.state["momentum_buffer"].to(dtype), step)

    def advance(self, index: int, part: Part, evaluation: Evaluation) -> None:
        """Step from x."""
        del index
        self._descend(part, self._gradient(part, evaluation))


_RULES: Mapping[str, type[ExtrapolationRule]] = {
    "past": PastRule,
    "extragradient": ExtragradientRule,
    "nesterov": NesterovRule,
}


def extrapolation_rule(mode: str, *, has_momentum: bool) -> Rule:
    """The rule of a mode."""
    return _RULES[mode](has_momentum=has_momentum)
