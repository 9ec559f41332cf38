"""The optimizers of a cohort: each species updates its rows in one batched expression."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn

from optuna_esgd.engine.individual import Individual
from optuna_esgd.errors import OptimizerError
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.optim.rule import Draws, Part, Rule, run_step
from optuna_esgd.species.base import Species
from optuna_esgd.species.state import STATE_OF_OPTION, flatten_state, restore_state
from optuna_esgd.trainer.blame import blamed_on_the_optimizer, warn_of_failure
from optuna_esgd.trainer.cohort_memory import CohortMemory
from optuna_esgd.trainer.compiled_step import CompiledSteps
from optuna_esgd.trainer.evaluations import CohortEvaluations, RowClosure, write_gradients
from optuna_esgd.trainer.spaces import of_species

Tensors = dict[str, Tensor]


class CohortOptimizers:
    """The optimizers of all rows of a cohort.

    Args:
        weights: The cohort's matrix, changed in place.
        individuals: Who is in which row. Rows of one species lie side by side, and those of
            species that need a closure after all others.
        species: By name.
        states: Inherited optimizer state per row; empty to start afresh.
        rule: What is to be done by the rule of a species, in another way if there is a faster one.
        steps: Compiled ones, for those who share a backward pass; None to step eagerly.

    Attributes:
        parties: Who steps together; each is stepped by itself.
    """

    def __init__(
        self,
        weights: Matrix,
        individuals: Sequence[Individual],
        species: Mapping[str, Species],
        states: Sequence[Mapping[str, Tensor]],
        rule: Callable[[Rule], Rule],
        steps: CompiledSteps | None = None,
    ) -> None:
        self._row_groups: list[tuple[_Group, int]] = []
        sharing: list[_Group] = []
        alone: list[_Group] = []
        for name, rows in _side_by_side(individuals):
            for group in _groups(species[name], weights, rows, individuals, rule):
                (alone if species[name].needs_closure else sharing).append(group)
                for position, row in enumerate(group.rows):
                    self._row_groups.append((group, position))
                    group.write(position, states[row])
                    group.keep(position)
        self.parties = [Party([group]) for group in alone]
        if sharing:
            shared = Party(sharing) if steps is None else CompiledParty(sharing, weights, steps)
            self.parties.insert(0, shared)

    def scale_rates(self, factor: float) -> None:
        """From now on learning rates, where there are any, are those shown times a factor."""
        for party in self.parties:
            party.scale_rates(factor)

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

    def overwrite(self, row: int, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that ``row_state`` has copied."""
        group, position = self._row_groups[row]
        group.write(position, state)

    def row_state(self, row: int) -> Tensors:
        """A copy of one row's state."""
        group, position = self._row_groups[row]
        return group.save(position)

    def take_failed_rows(self) -> list[int]:
        """Rows whose optimizer raised since the last call; it may step again from now on."""
        return [row for party in self.parties for row in party.take_failed_rows()]


class Party:
    """Groups of rows whose gradients come from one backward pass; or one group by itself.

    Attributes:
        rows: All of its rows.
    """

    def __init__(self, groups: Sequence[_Group]) -> None:
        self.rows = range(groups[0].rows.start, groups[-1].rows.stop)
        self._groups = groups
        self._failed: list[_Group] = []

    @property
    def is_running(self) -> bool:
        """Whether there is still a group that can step."""
        return len(self._failed) < len(self._groups)

    def scale_rates(self, factor: float) -> None:
        """See ``CohortOptimizers``."""
        for group in self._groups:
            group.scale_rates(factor)

    def step(self, evaluations: CohortEvaluations) -> None:
        """One step of every group that has not failed."""
        if len(self._groups) == 1:
            self._step(self._groups[0], evaluations, evaluations)
            return
        losses, blocks = evaluations.gradients()
        for group in self._groups:
            if group not in self._failed:
                start, stop = (
                    edge - self.rows.start for edge in (group.rows.start, group.rows.stop)
                )
                share = _Share(losses[start:stop], [block[start:stop] for block in blocks])
                self._step(group, share, evaluations)

    def take_failed_rows(self) -> list[int]:
        """See ``CohortOptimizers``."""
        failed, self._failed = self._failed, []
        return [row for group in failed for row in group.rows]

    def _step(
        self, group: _Group, evaluations: CohortEvaluations | _Share, source: CohortEvaluations
    ) -> None:
        try:
            with blamed_on_the_optimizer(source, group.name), torch.no_grad():
                group.step(evaluations)
        except OptimizerError as error:
            warn_of_failure(group.name, error)
            self._failed.append(group)


class CompiledParty(Party):
    """A party whose step is a compiled function of the whole cohort.

    Rows that are no part of it are computed too, and stay as they are: so there is one function,
    however many they are.
    """

    def __init__(self, groups: Sequence[_Group], weights: Matrix, steps: CompiledSteps) -> None:
        super().__init__(groups)
        self._steps = steps
        self._n_rows = weights.n_rows
        memory = CohortMemory.allocate(steps.plan, weights)
        memory.members[: self.rows.stop, -1] = True
        for group in groups:
            if isinstance(group, _RuleGroup):
                memory.adopt(group.name, group.rows, group.parts)
        self._memory, self._tensors = memory, memory.tensors

    def scale_rates(self, factor: float) -> None:
        """See ``CohortOptimizers``."""
        super().scale_rates(factor)
        for group in self._groups:
            if isinstance(group, _RuleGroup):
                self._memory.set_hyperparameters(group.name, group.rows, group.parts)

    def step(self, evaluations: CohortEvaluations) -> None:
        """One step of every group that has not failed; eager where there is no function."""
        step = self._steps.find(self._n_rows, evaluations.batch_size)
        if step is None:
            super().step(evaluations)
            return
        evaluations.spending.n_gradients += 1
        given = [*evaluations.batch, evaluations.dropout_keys]
        with torch.no_grad():
            losses, *blocks = step(*self._tensors, *(_extend(one, self._n_rows) for one in given))
        for group in self._groups:
            if isinstance(group, _RowGroup) and group not in self._failed:
                rows = slice(group.rows.start, group.rows.stop)
                share = _Share(losses[rows], [block[rows] for block in blocks])
                self._step(group, share, evaluations)


def _extend(tensor: Tensor, n_rows: int) -> Tensor:
    """Repeat the last row until there are so many."""
    n_missing = n_rows - len(tensor)
    if n_missing == 0:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(n_missing, *tensor.shape[1:])])


class _Share:
    """A group's part of a backward pass that was made for several."""

    def __init__(self, losses: Tensor, gradients: list[Tensor]) -> None:
        self._losses = losses
        self._gradients = gradients

    def gradients(self) -> tuple[Tensor, list[Tensor]]:
        return self._losses, self._gradients

    def losses(self) -> Tensor:
        return self._losses

    def advance(self) -> None:
        """Whoever made the backward pass does that."""


class _Group(Protocol):
    name: str
    rows: range

    def write(self, position: int, state: Mapping[str, Tensor]) -> None: ...
    def save(self, position: int) -> Tensors: ...
    def scale_rates(self, factor: float) -> None: ...
    def step(self, evaluations: CohortEvaluations | _Share) -> None: ...
    def keep(self, position: int) -> None: ...
    def restore(self, position: int) -> None: ...


def _groups(
    species: Species,
    weights: Matrix,
    rows: range,
    individuals: Sequence[Individual],
    rule: Callable[[Rule], Rule],
) -> list[_Group]:
    """All rows of a species as one group if it has a rule, else each as one of its own."""
    if species.batched is None:
        return [_RowGroup(species, weights, row, individuals[row]) for row in rows]
    members = individuals[rows.start : rows.stop]
    return [_RuleGroup(species, rule(species.batched), weights, rows, members)]


class _RuleGroup:
    """Rows of one species with a rule: state is a matrix like the weights."""

    def __init__(
        self,
        species: Species,
        rule: Rule,
        weights: Matrix,
        rows: range,
        individuals: Sequence[Individual],
    ) -> None:
        self.name, self.rows = species.name, rows
        self._rule = rule
        self._shapes = _block_shapes(weights.layout)
        self._places = [
            places.to(weights.device) for places in _block_places(weights.layout, self._shapes)
        ]
        hyperparameters = [one.hyperparameters for one in individuals]
        self.parts = [
            Part(block, rule.init_state(block), species.columns(hyperparameters, block))
            for block in weights.rows(rows).trainable()
        ]
        columns = [part.hyperparameters.get("lr") for part in self.parts]
        self._rates = [(column, column.clone()) for column in columns if column is not None]
        self._kept = [
            {name: tensor.clone() for name, tensor in part.state.items()} for part in self.parts
        ]

    def scale_rates(self, factor: float) -> None:
        for column, shown in self._rates:
            torch.mul(shown, factor, out=column)

    def step(self, evaluations: CohortEvaluations | _Share) -> None:
        for part, places in zip(self.parts, self._places, strict=True):
            part.work.clear()
            if self._rule.draws and isinstance(evaluations, CohortEvaluations):
                part.draws = Draws(evaluations.key, places)
        run_step(self._rule, self.parts, evaluations)

    def write(self, position: int, state: Mapping[str, Tensor]) -> None:
        for part, shapes in zip(self.parts, self._shapes, strict=True):
            joined = self._rule.join_row_state(state, shapes)
            self._rule.write_row_state(part.state, position, joined)

    def save(self, position: int) -> Tensors:
        """In torch's own form, so that a row may be trained alone another time."""
        saved: Tensors = {}
        for part, shapes in zip(self.parts, self._shapes, strict=True):
            row = self._rule.row_state(part.state, position)
            for option, key in STATE_OF_OPTION.items():
                column = part.hyperparameters.get(option)
                if column is not None and not column[position].any():
                    row.pop(key, None)  # rows that train alone have none either
            saved |= self._rule.split_row_state(row, shapes)
        return {name: tensor.cpu() for name, tensor in saved.items()}

    def keep(self, position: int) -> None:
        for kept, part in zip(self._kept, self.parts, strict=True):
            for name, tensor in part.state.items():
                kept[name][position].copy_(tensor[position])

    def restore(self, position: int) -> None:
        for kept, part in zip(self._kept, self.parts, strict=True):
            for name, tensor in part.state.items():
                tensor[position].copy_(kept[name][position])


class _RowGroup:
    """One row of a species without a rule: a torch optimizer on views of the row."""

    def __init__(
        self, species: Species, weights: Matrix, row: int, individual: Individual
    ) -> None:
        self.name, self.rows = species.name, range(row, row + 1)
        self._species = species
        self._individual = individual
        self._weights = weights.rows(self.rows)
        self._parameters = {
            name: nn.Parameter(view[0]) for name, view in self._weights.parameters().items()
        }
        self._optimizer = self._build()
        self._rates = [group.get("lr") for group in self._optimizer.param_groups]
        self._kept: Tensors = {}

    def scale_rates(self, factor: float) -> None:
        for group, shown in zip(self._optimizer.param_groups, self._rates, strict=True):
            if shown is not None:
                group["lr"] = shown * factor

    def step(self, evaluations: CohortEvaluations | _Share) -> None:
        if self._species.needs_closure and isinstance(evaluations, CohortEvaluations):
            closure = RowClosure(evaluations, self._parameters)
            self._optimizer.step(closure)  # type: ignore[arg-type]
            return
        _, blocks = evaluations.gradients()
        write_gradients(self._weights, blocks, self._parameters)
        self._optimizer.step()

    def write(self, position: int, state: Mapping[str, Tensor]) -> None:
        del position
        self._optimizer = self._build()
        restore_state(self._optimizer, state)

    def save(self, position: int) -> Tensors:
        del position
        return flatten_state(self._optimizer)

    def keep(self, position: int) -> None:
        self._kept = self.save(position)

    def restore(self, position: int) -> None:
        self.write(position, self._kept)

    def _build(self) -> torch.optim.Optimizer:
        return self._species.build(
            list(self._parameters.values()),
            of_species(self._species, self._individual.hyperparameters),
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


def _block_places(
    layout: Layout, block_shapes: Sequence[Mapping[int, tuple[int, ...]]]
) -> list[Tensor]:
    """(n_trainable,) for each block that trains: a weight's number among all that train.

    Counted through the parameters in the model's order, as an optimizer of one model counts.
    """
    starts, n_before = {}, 0
    for number, entry in enumerate(layout.of_kind("parameter")):
        starts[number] = n_before
        n_before += entry.size
    return [
        torch.cat(
            [
                torch.arange(starts[number], starts[number] + math.prod(shape), device="cpu")
                for number, shape in shapes.items()
            ]
        )
        for shapes in block_shapes
    ]


def _side_by_side(individuals: Sequence[Individual]) -> Iterator[tuple[str, range]]:
    """Runs of rows of one species."""
    start = 0
    for name, run in groupby(individuals, key=lambda one: one.species):
        n_rows = len(list(run))
        yield name, range(start, start + n_rows)
        start += n_rows
