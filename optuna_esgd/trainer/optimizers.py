"""The optimizers of a cohort: each species updates its rows in one batched expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn

from optuna_esgd.engine.individual import Individual
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.species.base import Species
from optuna_esgd.species.batched import BatchedUpdate
from optuna_esgd.species.state import flatten_state, restore_state
from optuna_esgd.trainer.spaces import of_species

Tensors = dict[str, Tensor]


class CohortOptimizers:
    """Steps all rows of a cohort, whose rows of one species must lie side by side.

    Args:
        weights: The cohort's matrix, changed in place.
        individuals: Who is in which row.
        species: By name.
        states: Inherited optimizer state per row; empty to start afresh.
    """

    def __init__(
        self,
        weights: Matrix,
        individuals: Sequence[Individual],
        species: Mapping[str, Species],
        states: Sequence[Mapping[str, Tensor]],
    ) -> None:
        self._layout = weights.layout
        self._groups: list[_Group] = []
        self._row_groups: list[tuple[_Group, int]] = []
        for name, rows in _side_by_side(individuals):
            chosen = species[name]
            members = individuals[rows.start : rows.stop]
            group: _Group
            if chosen.batched is not None:
                group = _BatchedGroup(chosen, chosen.batched, weights, rows, members)
            else:
                group = _PerRowGroup(chosen, weights, rows, members)
            self._groups.append(group)
            for row in rows:
                self._row_groups.append((group, row - rows.start))
                group.load(row - rows.start, states[row])
        self.gradients_per_step = [species[one.species].gradients_per_step for one in individuals]

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One update of every row.

        Args:
            gradients: name -> (rows, *shape) of every trainable parameter.
        """
        flat = self._layout.flatten_trainable(gradients)
        for group in self._groups:
            group.step(flat)

    def keep(self, rows: Sequence[int]) -> None:
        """Copy the state of these rows as the one to return to."""
        for row in rows:
            group, position = self._row_groups[row]
            group.keep(position)

    def restore(self, rows: Sequence[int]) -> None:
        """Return these rows to their kept state."""
        for row in rows:
            group, position = self._row_groups[row]
            group.restore(position)

    def row_state(self, row: int) -> Tensors:
        """A copy of one row's state."""
        group, position = self._row_groups[row]
        return group.save(position)


class _Group(Protocol):
    def load(self, position: int, state: Mapping[str, Tensor]) -> None: ...
    def save(self, position: int) -> Tensors: ...
    def step(self, gradients: Sequence[Tensor]) -> None: ...
    def keep(self, position: int) -> None: ...
    def restore(self, position: int) -> None: ...


class _BatchedGroup:
    """Rows of one species with a batched rule: state is a matrix like the weights."""

    def __init__(
        self,
        species: Species,
        update: BatchedUpdate,
        weights: Matrix,
        rows: range,
        individuals: Sequence[Individual],
    ) -> None:
        self._update = update
        self._rows = slice(rows.start, rows.stop)
        self._parameters = [block[self._rows] for block in weights.trainable()]
        self._states = [update.init_state(block) for block in self._parameters]
        self._shapes = _block_shapes(weights.layout)
        self._kept = [
            {name: tensor.clone() for name, tensor in state.items()} for state in self._states
        ]
        self._columns = [
            species.columns([one.hyperparameters for one in individuals], block)
            for block in self._parameters
        ]

    def step(self, gradients: Sequence[Tensor]) -> None:
        for parameters, gradient, state, columns in zip(
            self._parameters, gradients, self._states, self._columns, strict=True
        ):
            self._update.step(parameters, gradient[self._rows], state, columns)

    def load(self, position: int, state: Mapping[str, Tensor]) -> None:
        for tensors, shapes in zip(self._states, self._shapes, strict=True):
            joined = self._update.join_row_state(state, shapes)
            self._update.write_row_state(tensors, position, joined)
        self.keep(position)

    def save(self, position: int) -> Tensors:
        """In torch's own form, so that a row may be trained alone another time."""
        saved: Tensors = {}
        for tensors, shapes in zip(self._states, self._shapes, strict=True):
            row = self._update.row_state(tensors, position)
            saved |= self._update.split_row_state(row, shapes)
        return {name: tensor.cpu() for name, tensor in saved.items()}

    def keep(self, position: int) -> None:
        for kept, state in zip(self._kept, self._states, strict=True):
            for name, tensor in state.items():
                kept[name][position].copy_(tensor[position])

    def restore(self, position: int) -> None:
        for kept, state in zip(self._kept, self._states, strict=True):
            for name, tensor in state.items():
                tensor[position].copy_(kept[name][position])


class _PerRowGroup:
    """Rows of a species without a batched rule: a torch optimizer each, on views of the row."""

    def __init__(
        self, species: Species, weights: Matrix, rows: range, individuals: Sequence[Individual]
    ) -> None:
        self._species = species
        self._individuals = individuals
        self._layout = weights.layout
        self._rows = rows
        views = weights.parameters()
        self._parameters = [
            {name: nn.Parameter(view[row]) for name, view in views.items()} for row in rows
        ]
        self._optimizers = [self._build(position) for position in range(len(rows))]
        self._kept: list[Tensors] = [{} for _ in rows]

    def step(self, gradients: Sequence[Tensor]) -> None:
        views = self._layout.unflatten_trainable(gradients)
        for row, parameters, optimizer in zip(
            self._rows, self._parameters, self._optimizers, strict=True
        ):
            for name, parameter in parameters.items():
                parameter.grad = views[name][row]
            optimizer.step()

    def load(self, position: int, state: Mapping[str, Tensor]) -> None:
        restore_state(self._optimizers[position], state)
        self.keep(position)

    def save(self, position: int) -> Tensors:
        return flatten_state(self._optimizers[position])

    def keep(self, position: int) -> None:
        self._kept[position] = self.save(position)

    def restore(self, position: int) -> None:
        self._optimizers[position] = self._build(position)
        restore_state(self._optimizers[position], self._kept[position])

    def _build(self, position: int) -> torch.optim.Optimizer:
        return self._species.build(
            list(self._parameters[position].values()),
            of_species(self._species, self._individuals[position].hyperparameters),
        )


def _block_shapes(layout: Layout) -> list[dict[int, tuple[int, ...]]]:
    """For each block that trains: the number of each parameter in it, and its shape."""
    return [
        {
            number: entry.shape
            for number, entry in enumerate(layout.of_kind("parameter"))
            if entry.dtype == block.dtype
        }
        for block in layout.blocks
        if block.n_trainable > 0
    ]


def _side_by_side(individuals: Sequence[Individual]) -> Iterator[tuple[str, range]]:
    """Runs of rows of one species."""
    start = 0
    for name, run in groupby(individuals, key=lambda one: one.species):
        n_rows = len(list(run))
        yield name, range(start, start + n_rows)
        start += n_rows
