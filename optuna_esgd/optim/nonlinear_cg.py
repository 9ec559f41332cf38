"""Nonlinear conjugate gradients with a line search on the slope."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from optuna_esgd.optim.closure import Closure, as_closure
from optuna_esgd.optim.limited_optimizer import LimitedOptimizer, Parameters
from optuna_esgd.optim.limits import COUNT, NOT_NEGATIVE, SHARE, Limit, one_of
from optuna_esgd.optim.line_search import Point, search_line


class NonlinearCG(LimitedOptimizer):
    """Nonlinear conjugate gradients (Polak & Ribière 1969; Fletcher & Reeves 1964).

    d ← -lr·g + β·d, then x moves along d to where the slope is small. With an exact search (a
    small ``slope_tolerance``) a quadratic of N dimensions is solved in N steps. Meant for full
    batches: all evaluations of a step are on one mini-batch, but conjugacy needs one loss for all
    steps. ``lr`` is the first length tried, in units of the gradient; groups may have their own,
    which then weigh the inner products of β too. A step that finds nothing lower leaves the
    weights bit by bit, and the next one begins anew along the gradient.

    Args:
        params: As for ``torch.optim``.
        lr: See above.
        beta: ``"pr+"``, max(0, Polak and Ribière's), or ``"fr"``, Fletcher and Reeves's.
        max_evaluations: Of loss and gradient in one search, besides the one at its start.
        slope_tolerance: The search ends where the slope is this share of its first.

    Raises:
        ConfigurationError: An argument is out of its limits.
    """

    limits: ClassVar[Mapping[str, Limit]] = {
        "lr": NOT_NEGATIVE,
        "beta": one_of("pr+", "fr"),
        "max_evaluations": COUNT,
        "slope_tolerance": SHARE,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        beta: str = "pr+",
        max_evaluations: int = 10,
        slope_tolerance: float = 0.1,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta": beta,
            "max_evaluations": max_evaluations,
            "slope_tolerance": slope_tolerance,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Tensor:  # type: ignore[override]
        """Search along one direction; see ``optuna_esgd.optim.closure`` for the closure.

        Returns:
            The loss before the step.
        """
        evaluate = as_closure(closure)
        loss = evaluate().clone()
        settings = self.param_groups[0]
        rates = [float(group["lr"]) for group in self.param_groups for _ in group["params"]]
        everything = [p for group in self.param_groups for p in group["params"]]
        moved = [
            (p, rate) for p, rate in zip(everything, rates, strict=True) if p.grad is not None
        ]
        line = _Line([p for p, _ in moved], evaluate)
        gradients = [gradient.clone() for gradient in line.gradients()]
        directions = self._directions([rate for _, rate in moved], line.parameters, gradients)
        slope = _dot(gradients, directions)
        found = 0.0
        if math.isfinite(float(loss)) and math.isfinite(slope) and slope < 0:
            found = search_line(
                line.along(directions),
                Point(0.0, float(loss), slope),
                n_evaluations=settings["max_evaluations"],
                tolerance=settings["slope_tolerance"],
            )
        line.move(found, directions)
        for p, gradient, direction in zip(line.parameters, gradients, directions, strict=True):
            self.state[p]["past_gradient"] = gradient if found else torch.zeros_like(gradient)
            self.state[p]["direction"] = direction if found else torch.zeros_like(gradient)
        return loss

    def _directions(
        self, rates: Sequence[float], parameters: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> list[Tensor]:
        """-lr·g + β·d, or -lr·g where that leads uphill."""
        zeros = [torch.zeros_like(gradient) for gradient in gradients]
        states = [self.state[p] for p in parameters]
        pairs = list(zip(states, zeros, strict=True))
        past_gradients = [state.get("past_gradient", zero) for state, zero in pairs]
        past = [state.get("direction", zero) for state, zero in pairs]
        scaled = [gradient * rate for gradient, rate in zip(gradients, rates, strict=True)]
        before = _dot(
            [g * rate for g, rate in zip(past_gradients, rates, strict=True)], past_gradients
        )
        beta = 0.0
        if before > 0:
            beta = _dot(scaled, gradients) / before
            if self.param_groups[0]["beta"] == "pr+":
                beta = max(0.0, beta - _dot(scaled, past_gradients) / before)
        directions = [d * beta - g for d, g in zip(past, scaled, strict=True)]
        if not _dot(gradients, directions) < 0:
            directions = [-gradient for gradient in scaled]
        return directions


class _Line:
    """Weights that are moved along a direction from where they were."""

    def __init__(self, parameters: Sequence[Tensor], closure: Closure) -> None:
        self.parameters = parameters
        self._closure = closure
        self._origins = [p.clone() for p in parameters]

    def gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    def move(self, length: float, directions: Sequence[Tensor]) -> None:
        """To origin + length · direction; exactly to the origin at length 0."""
        for p, origin, direction in zip(self.parameters, self._origins, directions, strict=True):
            p.copy_(origin if length == 0 else torch.add(origin, direction, alpha=length))

    def along(self, directions: Sequence[Tensor]) -> Callable[[float], Point]:
        """Loss and slope as functions of the length."""

        def evaluate(length: float) -> Point:
            self.move(length, directions)
            loss = float(self._closure())
            return Point(length, loss, _dot(self.gradients(), directions))

        return evaluate


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    pairs = zip(left, right, strict=True)
    return float(sum(float((a.double() * b.double()).sum()) for a, b in pairs))
