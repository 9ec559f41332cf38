"""The same update for many individuals at once.

Notation: R rows (individuals of one species), d trainable weights each; parameters, gradients and
elementwise state are (R, d), hyperparameters and counters (R, 1) columns, so that each row is
updated with its own values in one expression.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

State = dict[str, Tensor]


class BatchedUpdate(abc.ABC):
    """An optimizer's rule for all rows of a species; the same numbers as ``torch.optim``'s.

    State has the names that ``torch.optim`` uses.

    Attributes:
        hyperparameters: The columns that ``step`` reads.
        optional: Those of them that are left out where they are 0 for good, so that what they
            would cost is saved.
        variants: Fixed settings that the rule was made for; ``step`` needs no columns for them.
        elementwise: State with one number per weight, zero at first.
        counters: State with one number per row, and its first value.
    """

    hyperparameters: ClassVar[frozenset[str]]
    optional: ClassVar[frozenset[str]] = frozenset({"weight_decay"})
    variants: ClassVar[frozenset[str]] = frozenset()
    elementwise: tuple[str, ...] = ()
    counters: ClassVar[Mapping[str, float]] = {}

    def init_state(self, parameters: Tensor) -> State:
        """State before the first step: (R, d) and (R, 1) tensors."""
        state = {name: torch.zeros_like(parameters) for name in self.elementwise}
        for name, value in self.counters.items():
            # float32 as in torch.optim; whole numbers are exact up to 2**24 steps.
            state[name] = torch.full(
                (len(parameters), 1), value, dtype=torch.float32, device=parameters.device
            )
        return state

    @abc.abstractmethod
    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """Update all rows in place.

        Args:
            parameters: (R, d), changed in place.
            gradients: (R, d), left alone.
            state: From ``init_state``, changed in place.
            hyperparameters: name -> (R, 1), as ``Species.columns`` makes them.
        """

    def row_state(self, state: State, row: int) -> State:
        """A copy of one row's state: (d,) and (1,) tensors."""
        return {name: tensor[row].clone() for name, tensor in state.items()}

    def write_row_state(self, state: State, row: int, tensors: Mapping[str, Tensor]) -> None:
        """Copy what ``row_state`` gave into a row; what it does not name starts afresh."""
        fresh = self.init_state(next(iter(state.values()))[row : row + 1]) if state else {}
        for name, tensor in state.items():
            tensor[row].copy_(tensors.get(name, fresh[name][0]))

    def split_row_state(
        self, tensors: Mapping[str, Tensor], shapes: Mapping[int, Sequence[int]]
    ) -> State:
        """Name a row's state as ``flatten_state`` names that of a ``torch.optim`` optimizer.

        So a row can be trained batched now and alone later, or the other way round.

        Args:
            tensors: What ``row_state`` gave.
            shapes: The number of each parameter among the optimizer's, and its shape, in the order
                of the row's columns.

        Returns:
            Views, such as ``"0.exp_avg"``.
        """
        sizes = [math.prod(shape) for shape in shapes.values()]
        state = {}
        for name in self.elementwise:
            parts = tensors[name].split(sizes)
            for (number, shape), part in zip(shapes.items(), parts, strict=True):
                state[f"{number}.{name}"] = part.view(tuple(shape))
        for name in self.counters:
            state |= {f"{number}.{name}": tensors[name].view(()) for number in shapes}
        return state

    def join_row_state(
        self, state: Mapping[str, Tensor], shapes: Mapping[int, Sequence[int]]
    ) -> State:
        """The reverse of ``split_row_state``; state that some parameter lacks is left out."""
        tensors = {}
        for name in (*self.elementwise, *self.counters):
            parts = [state.get(f"{number}.{name}") for number in shapes]
            found = [part.reshape(-1) for part in parts if part is not None]
            if found and len(found) == len(shapes):
                tensors[name] = found[0] if name in self.counters else torch.cat(found)
        return tensors


def arithmetic(parameters: Tensor) -> torch.dtype:
    """The precision that rows are updated in: the weights' own, at least float32.

    Coefficients such as 1 - beta ** t need more digits, and cost nothing: they are (R, 1), and are
    brought to this precision last.
    """
    return torch.float64 if parameters.dtype == torch.float64 else torch.float32


def with_weight_decay(
    gradients: Tensor, parameters: Tensor, weight_decay: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(R, d) gradients plus the L2 penalty's, in the precision of the arithmetic."""
    gradients = gradients.to(dtype)
    if weight_decay is None:
        return gradients
    return torch.addcmul(gradients, parameters.to(dtype), weight_decay.to(dtype))


def blend_(average: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    """Do average += weight * (value - average) in place.

    Returns:
        The average in the precision of ``value``: itself, or a copy.
    """
    weight = weight.to(value.dtype)
    if average.dtype == value.dtype:
        return average.lerp_(value, weight)
    blended = torch.lerp(average.to(value.dtype), value, weight)
    average.copy_(blended)
    return blended
