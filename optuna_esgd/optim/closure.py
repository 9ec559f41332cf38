"""What an optimizer may ask of the loss within one step: the closure contract.

``optimizer.step(closure)`` with an ordinary function is torch's contract: each call clears the
gradients, computes the loss and its gradients, and returns the loss. A ``Closure`` says more:

========================  ==========================================  ============================
an optimizer wants        it calls                                    for example
========================  ==========================================  ============================
loss and gradients        ``closure()``                               all
the same mini-batch again ``closure()`` again                         extragradient, line searches
the loss alone            ``closure.loss()``                          conditioned mutation
another mini-batch        ``closure.advance()``, then ``closure()``   Entropy-SGD
random numbers            ``closure.key``                             Entropy-SGD
========================  ==========================================  ============================

Within a step the mini-batch, and the dropout masks that belong to it, stay the same until
``advance``. Between steps whoever writes the loop advances: a step begins on a fresh mini-batch.

An optimizer turns what it is given into a ``Closure`` by ``as_closure``. An ordinary function has
no way to ``advance``, so it decides itself what each call sees; where the loss alone is wanted it
is called in full and its gradients are not used (it may also just return the loss). So with an
optimizer that wants fresh mini-batches draw one in each call; with all others keep to one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Closure(abc.ABC):
    """The loss on mini-batches that the optimizer can go through.

    Attributes:
        key: What the optimizer's own random draws in the coming step are a function of: a 0-dim
            int64 tensor, or (rows, 1) for many rows at once; None lets it draw from a generator.
    """

    key: Tensor | None = None

    @abc.abstractmethod
    def __call__(self) -> Tensor:
        """Loss on the present mini-batch; leaves its gradients in ``grad``."""

    @abc.abstractmethod
    def loss(self) -> Tensor:
        """Loss on the present mini-batch; computes no gradients."""

    @abc.abstractmethod
    def advance(self) -> None:
        """Go on to the next mini-batch."""


class FunctionClosure(Closure):
    """An ordinary closure of torch's, which decides itself what each call sees."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __call__(self) -> Tensor:
        """Call the function with gradients on."""
        with torch.enable_grad():
            loss = self._function()
            return loss.detach() if isinstance(loss, Tensor) else torch.as_tensor(loss)

    def loss(self) -> Tensor:
        """Call the function all the same: it may compute gradients."""
        return self()

    def advance(self) -> None:
        """The next call may see another mini-batch or not: that is the function's own choice."""


def as_closure(function: Callable[[], Any]) -> Closure:
    """A ``Closure`` of whatever ``step`` was given."""
    return function if isinstance(function, Closure) else FunctionClosure(function)
