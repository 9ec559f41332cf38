"""All tensors that the compiled step of a cohort reads and writes, whatever species its rows are.

Notation: P rows of the cohort, S species whose rule takes one gradient, d trainable weights,
C hyperparameters of all these species together.

Each rule is applied to all rows, and each row takes the result of its own: rules are cheap beside
gradients, and compiled into one pass over the weights. Optimizer state lies in *slots* that belong
to rows, not to species, so the cohort needs as many as the most demanding species.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from optuna_esgd.genome.layout import Kind, Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.optim.rule import Part
from optuna_esgd.species.base import Species

_KINDS: tuple[Kind, ...] = ("parameter", "frozen", "buffer")

Tensors = dict[str, Tensor]


class StepPlan:
    """What is computed in a step, and in which order the tensors for it come.

    Args:
        layout: The model's.
        species: By name; those whose rule takes one gradient are in the plan.
        device: Where the cohorts are.

    Attributes:
        layout: See above.
        rules: By the name of the species.
        columns: The hyperparameters of each species, and their places among the C.
        n_slots: Elementwise states of the most demanding species.
        n_counters: The same of state with one number per row.
        has_others: Whether there are species that take one gradient and have no rule.
    """

    def __init__(
        self, layout: Layout, species: Mapping[str, Species], device: torch.device
    ) -> None:
        self.layout = layout
        self.rules: dict[str, BatchedUpdate] = {
            name: one.batched
            for name, one in sorted(species.items())
            if isinstance(one.batched, BatchedUpdate)
        }
        self.has_others = any(
            one.batched is None and not one.needs_closure for one in species.values()
        )
        block = Matrix.zeros(layout, 1, device).trainable()[0]
        self.columns: dict[str, dict[str, int]] = {}
        for name in self.rules:
            first = self.n_columns
            names = species[name].columns([], block)
            self.columns[name] = {column: first + n for n, column in enumerate(names)}
        self.n_slots = max((len(one.elementwise) for one in self.rules.values()), default=0)
        self.n_counters = max((len(one.counters) for one in self.rules.values()), default=0)

    @property
    def n_columns(self) -> int:
        """C."""
        return sum(map(len, self.columns.values()))

    def edges(self, kind: Kind) -> dict[torch.dtype, tuple[int, int]]:
        """For each block with tensors of a kind: where they begin and end."""
        edges = {}
        for block in self.layout.blocks:
            entries = [one for one in self.layout.of_kind(kind) if one.dtype == block.dtype]
            if entries:
                start = min(one.offset for one in entries)
                edges[block.dtype] = start, start + sum(one.size for one in entries)
        return edges


@dataclass(frozen=True)
class CohortMemory:
    """The tensors of one cohort.

    Attributes:
        plan: What is computed.
        columns: kind -> dtype -> (P, columns) of the weights. These are views of two dimensions,
            which the compiler sees to be apart from one another.
        slots: For each block that trains, (P, d) tensors of optimizer state.
        counters: For each block that trains, (P, 1) tensors of optimizer state.
        members: (P, S + 1) booleans: which species a row is of, and whether it steps at all.
        hyperparameters: (P, C).
    """

    plan: StepPlan
    columns: Mapping[Kind, Mapping[torch.dtype, Tensor]]
    slots: Sequence[Sequence[Tensor]]
    counters: Sequence[Sequence[Tensor]]
    members: Tensor
    hyperparameters: Tensor

    @classmethod
    def allocate(cls, plan: StepPlan, weights: Matrix) -> CohortMemory:
        """Memory beside these weights, in which nobody steps yet."""
        n_rows, device = weights.n_rows, weights.device
        columns = {
            kind: {
                dtype: weights.blocks[dtype][:, start:stop]
                for dtype, (start, stop) in plan.edges(kind).items()
            }
            for kind in _KINDS
        }
        trainable = columns["parameter"].values()
        return cls(
            plan=plan,
            columns=columns,
            slots=[[torch.zeros_like(block) for _ in range(plan.n_slots)] for block in trainable],
            counters=[
                [torch.zeros(n_rows, 1, device=device) for _ in range(plan.n_counters)]
                for _ in trainable
            ],
            members=torch.zeros(n_rows, len(plan.rules) + 1, dtype=torch.bool, device=device),
            hyperparameters=torch.zeros(
                n_rows,
                plan.n_columns,
                # As in ``Species.columns``.
                dtype=torch.float32 if device.type == "mps" else torch.float64,
                device=device,
            ),
        )

    @classmethod
    def of(cls, plan: StepPlan, tensors: Sequence[Tensor]) -> CohortMemory:
        """The reverse of ``tensors``."""
        left = iter(tensors)
        columns = {kind: {dtype: next(left) for dtype in plan.edges(kind)} for kind in _KINDS}
        blocks = range(len(columns["parameter"]))
        return cls(
            plan=plan,
            columns=columns,
            slots=[_take(left, plan.n_slots) for _ in blocks],
            counters=[_take(left, plan.n_counters) for _ in blocks],
            members=next(left),
            hyperparameters=next(left),
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All of them in one list."""
        return [
            *chain.from_iterable(one.values() for one in self.columns.values()),
            *chain.from_iterable(self.slots),
            *chain.from_iterable(self.counters),
            self.members,
            self.hyperparameters,
        ]

    def adopt(self, name: str, rows: range, parts: Sequence[Part]) -> None:
        """Take in the rows of a species: their state moves here, and is shared from now on.

        Args:
            name: Of the species.
            rows: Its rows.
            parts: What its rule works on, one for each block that trains.
        """
        here = slice(rows.start, rows.stop)
        self.members[here, list(self.plan.rules).index(name)] = True
        for block, part in enumerate(parts):
            for state_name, place in self._state(name, block).items():
                place[here].copy_(part.state[state_name])
                part.state[state_name] = place[here]
        self.set_hyperparameters(name, rows, parts)

    def set_hyperparameters(self, name: str, rows: range, parts: Sequence[Part]) -> None:
        """Copy the hyperparameters of a species' rows; see ``adopt``."""
        for column, value in self._named_columns(name).items():
            value[rows.start : rows.stop].copy_(parts[0].hyperparameters[column])

    def views(self, kind: Kind) -> Tensors:
        """The model's tensors by name: (P, *shape) views."""
        edges = self.plan.edges(kind)
        views = {}
        for entry in self.plan.layout.of_kind(kind):
            block = self.columns[kind][entry.dtype]
            start = entry.offset - edges[entry.dtype][0]
            columns = block[:, start : start + entry.size]
            views[entry.name] = columns.view(len(block), *entry.shape)
        return views

    def update(self, gradients: Sequence[Tensor]) -> None:
        """Let every rule update all rows, and each row take the result of its own.

        Args:
            gradients: (P, d) for each block that trains.
        """
        for block, parameters in enumerate(self.columns["parameter"].values()):
            changing = [parameters, *self.slots[block], *self.counters[block]]
            chosen = {id(one): one for one in changing}
            for number, (name, rule) in enumerate(self.plan.rules.items()):
                is_member = self.members[:, number : number + 1]
                places = self._state(name, block)
                moved = parameters.clone()
                state = {key: place.clone() for key, place in places.items()}
                rule.step(moved, gradients[block], state, self._named_columns(name))
                for place, value in [
                    (parameters, moved),
                    *((places[key], state[key]) for key in places),
                ]:
                    chosen[id(place)] = torch.where(is_member, value, chosen[id(place)])
            for one in changing:
                one.copy_(chosen[id(one)])

    def advance_buffers(self, advanced: Tensors) -> None:
        """Write the buffers of those rows that step, all of a block at once."""
        for dtype, old in self.columns["buffer"].items():
            entries = [one for one in self.plan.layout.of_kind("buffer") if one.dtype == dtype]
            entries.sort(key=lambda entry: entry.offset)
            parts = [advanced[one.name].reshape(len(old), one.size) for one in entries]
            old.copy_(torch.where(self.members[:, -1:], torch.cat(parts, dim=1), old))

    def _state(self, name: str, block: int) -> Tensors:
        """The state of a species, of all rows: its names for the first slots and counters."""
        rule = self.plan.rules[name]
        state = dict(zip(rule.elementwise, self.slots[block], strict=False))
        return state | dict(zip(rule.counters, self.counters[block], strict=False))

    def _named_columns(self, name: str) -> Tensors:
        """The (P, 1) hyperparameters of a species."""
        return {
            column: self.hyperparameters[:, place : place + 1]
            for column, place in self.plan.columns[name].items()
        }


def _take(tensors: Iterator[Tensor], n: int) -> list[Tensor]:
    return [next(tensors) for _ in range(n)]
