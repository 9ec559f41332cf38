"""What a rule is: evaluations of the loss, and what happens to weights and state after each.

Notation: R rows (individuals of one species), d trainable weights each; parameters, gradients and
elementwise state are (R, d), hyperparameters, counters and losses (R, 1) columns, so that each row
is updated with its own values in one expression. For the one model of a ``torch.optim.Optimizer``
they are tensors of a parameter's shape and 0-dim.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from optuna_esgd.draws import keyed_normal, keyed_uniform

State = dict[str, Tensor]

# Clear of the streams that the same keys are used with elsewhere (one per dropout call).
_FIRST_STREAM = 2**20


class Draws(NamedTuple):
    """Random numbers of one step.

    Attributes:
        key: int64, (R, 1) or 0-dim.
        places: int64 numbers of the weights among all that are trained: (d,), or a parameter's
            shape.
    """

    key: Tensor
    places: Tensor

    def normal(self, stream: int, dtype: torch.dtype) -> Tensor:
        """(R, d) independent N(0, 1) numbers."""
        return keyed_normal(self.key, _FIRST_STREAM + stream, self.places, dtype)

    def uniform(self, dtype: torch.dtype) -> Tensor:
        """(R, 1) numbers in (0, 1], the same in all parts of a row."""
        place = torch.zeros((), dtype=torch.int64, device=self.key.device)
        return keyed_uniform(self.key, _FIRST_STREAM - 1, place, dtype)


@dataclass
class Part:
    """Weights that a rule changes in place, with all that belongs to them.

    Attributes:
        parameters: (R, d).
        state: What is kept from step to step.
        hyperparameters: name -> (R, 1).
        draws: Random numbers of the present step; None for rules that draw none.
        work: What is kept within the present step only.
    """

    parameters: Tensor
    state: State
    hyperparameters: Mapping[str, Tensor]
    draws: Draws | None = None
    work: State = field(default_factory=dict)


class Evaluation(NamedTuple):
    """What one evaluation of the loss gave.

    Attributes:
        gradients: (R, d), left alone by the rule; None for rules that use none.
        losses: (R, 1).
    """

    gradients: Tensor | None
    losses: Tensor


class Evaluator(Protocol):
    """Evaluates the loss where the parameters of all parts are; see ``closure`` for the words."""

    def gradients(self) -> tuple[Tensor, Sequence[Tensor | None]]:
        """(R, 1) losses, and the gradients of each part; None for a part that had no share."""
        ...

    def losses(self) -> Tensor:
        """(R, 1) losses alone."""
        ...

    def advance(self) -> None:
        """Go on to the next mini-batch."""
        ...


class Rule(abc.ABC):
    """How an optimizer steps, for all rows at once.

    A step is ``begin``, then ``n_evaluations`` times an evaluation of the loss where the
    parameters are now, and ``advance`` with what it gave. Gradients are those of the parameters
    as ``begin`` or ``advance`` left them. State has the names of the optimizer's.

    Attributes:
        hyperparameters: The columns that the rule reads.
        optional: Those of them that are left out where they are 0 for good, so that what they
            would cost is saved.
        fallbacks: Hyperparameters that, where they are None, are those of another name.
        variants: Fixed settings that the rule was made for; it needs no columns for them.
        elementwise: State with one number per weight, zero at first.
        counters: State with one number per row, and its first value.
        n_evaluations: Evaluations of the loss in one step.
        uses_gradients: Whether they are with gradients or of the loss alone.
        uses_fresh_batches: Whether each is on a mini-batch of its own, or all on the same.
        draws: Whether the rule needs random numbers.
    """

    hyperparameters: ClassVar[frozenset[str]]
    optional: ClassVar[frozenset[str]] = frozenset({"weight_decay"})
    fallbacks: ClassVar[Mapping[str, str]] = {}
    variants: ClassVar[frozenset[str]] = frozenset()
    elementwise: tuple[str, ...] = ()
    counters: ClassVar[Mapping[str, float]] = {}
    n_evaluations: int = 1
    uses_gradients: ClassVar[bool] = True
    uses_fresh_batches: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    @property
    def takes_ready_gradients(self) -> bool:
        """Whether a step is one gradient at the weights as they are, whoever computed it."""
        return False

    def begin(self, part: Part) -> None:
        """Move the parameters to where the first evaluation is wanted, if it is elsewhere."""
        del part

    @abc.abstractmethod
    def advance(self, index: int, part: Part, evaluation: Evaluation) -> None:
        """Go on after an evaluation.

        Args:
            index: Which evaluation of the step it was, from 0.
            part: Changed in place.
            evaluation: At the parameters as they are.
        """

    def numbers(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """The hyperparameters of one row that the rule reads."""
        found = {name: settings.get(name) for name in self.hyperparameters}
        return {
            name: float(settings[self.fallbacks[name]] if value is None else value)
            for name, value in sorted(found.items())
        }

    def init_state(self, parameters: Tensor) -> State:
        """State before the first step: (R, d) and (R, 1) tensors."""
        state = {name: torch.zeros_like(parameters) for name in self.elementwise}
        for name, value in self.counters.items():
            # float32 as in torch.optim; whole numbers are exact up to 2**24 steps.
            state[name] = torch.full(
                (len(parameters), 1), value, dtype=torch.float32, device=parameters.device
            )
        return state

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
            tensors: What ``row_state`` gave; of what is left out nothing is named.
            shapes: The number of each parameter among the optimizer's, and its shape, in the order
                of the row's columns.

        Returns:
            Views, such as ``"0.exp_avg"``.
        """
        sizes = [math.prod(shape) for shape in shapes.values()]
        state = {}
        for name in (one for one in self.elementwise if one in tensors):
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


def run_step(rule: Rule, parts: Sequence[Part], evaluator: Evaluator) -> Tensor:
    """Take one step of a rule on all parts together.

    Returns:
        (R, 1) losses of the first evaluation.
    """
    first: Tensor | None = None
    for part in parts:
        rule.begin(part)
    for index in range(rule.n_evaluations):
        if index > 0 and rule.uses_fresh_batches:
            evaluator.advance()
        gradients: Sequence[Tensor | None] = [None] * len(parts)
        if rule.uses_gradients:
            losses, gradients = evaluator.gradients()
        else:
            losses = evaluator.losses()
        first = losses if first is None else first
        for part, gradient in zip(parts, gradients, strict=True):
            if gradient is not None or not rule.uses_gradients:
                rule.advance(index, part, Evaluation(gradient, losses))
    assert first is not None  # noqa: S101  (there is at least one evaluation)
    return first
