"""What training costs: evaluations of the loss, counted where optimizers ask for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optuna_esgd.optim.closure import Closure, FunctionClosure, as_closure


@dataclass
class Spending:
    """Evaluations of the loss on one mini-batch.

    Attributes:
        n_gradients: With gradients.
        n_forwards: Of the loss alone.
    """

    n_gradients: int = 0
    n_forwards: int = 0


class CountingClosure(Closure):
    """Counts what an optimizer asks of a closure."""

    def __init__(self, closure: Closure, spending: Spending) -> None:
        self._closure = closure
        self._spending = spending
        self.key = closure.key

    def __call__(self) -> Tensor:
        """One with gradients."""
        self._spending.n_gradients += 1
        return self._closure()

    def loss(self) -> Tensor:
        """One of the loss alone, if the closure can tell the difference."""
        if isinstance(self._closure, FunctionClosure):
            self._spending.n_gradients += 1
        else:
            self._spending.n_forwards += 1
        return self._closure.loss()

    def advance(self) -> None:
        """Costs nothing."""
        self._closure.advance()


@contextlib.contextmanager
def counted(
    optimizer: torch.optim.Optimizer,
    gradients_per_step: int = 1,
    spending: Spending | None = None,
) -> Iterator[Spending]:
    """Count what an optimizer's steps cost within a block.

    Args:
        optimizer: Whoever steps it.
        gradients_per_step: What a step without a closure is taken to have cost.
        spending: What it is added to; starts from nothing if None.
    """
    spending = Spending() if spending is None else spending

    def count(
        _: torch.optim.Optimizer, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        itself, *rest = arguments
        closure = rest[0] if rest else named.get("closure")
        if closure is None:
            spending.n_gradients += gradients_per_step
            return None
        counting = CountingClosure(as_closure(closure), spending)
        others = {name: value for name, value in named.items() if name != "closure"}
        return (itself, counting, *rest[1:]), others

    hook = optimizer.register_step_pre_hook(count)
    try:
        yield spending
    finally:
        hook.remove()
