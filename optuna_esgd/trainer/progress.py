"""How far an SGD step has come, as named tensors: what a checkpoint holds.

A checkpoint describes every row twice: where training stands (``now``), and the point it would
back off to (``kept``); where the mean of the SGD step so far is wanted, that too (``mean``). Data
order and dropout are drawn from counters, so there is no random state to keep; species that draw
numbers of their own keep a counter in their optimizer's state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from optuna_esgd.genome.matrix import Matrix

State = dict[str, Tensor]

_PROGRESS = "progress"


class Resumable(Protocol):
    """The part of a cohort's training that a checkpoint needs; see ``trainer.sgd.Training``."""

    weights: Matrix

    def keep(self, rows: Sequence[int], weights: Matrix | None = None) -> None:
        """Copy these rows, or those of other weights, as the points to return to."""
        ...

    def restore(self, rows: Sequence[int]) -> None:
        """Return these rows to their kept points."""
        ...

    def overwrite(self, weights: Matrix, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on from these weights and optimizer states."""
        ...

    def optimizer_state(self, row: int) -> State:
        """A copy of the row's optimizer state."""
        ...


@dataclass
class Progress:
    """How one individual's SGD step went; see ``engine.individual.Individual``."""

    birth_fitness: float
    fitness: float = float("inf")
    n_back_offs: int = 0
    n_epochs: int = 0
    n_gradients: int = 0
    n_forwards: int = 0
    n_evaluations: int = 0
    first_mean: float = -float("inf")  # fitness of the mean of the first of several epochs

    def gets_better(self, step_mean: float) -> bool:
        """Whether training does, seen through its means: not if it stands still or overfits.

        Args:
            step_mean: Fitness of the mean of the whole SGD step.
        """
        return step_mean < self.first_mean


def describe(
    training: Resumable, progress: Sequence[Progress], mean: Matrix | None = None
) -> State:
    """Copy everything that a worker needs to go on from here; training goes on as if unseen.

    Args:
        training: Where it stands, and where it would back off to.
        progress: One record per row.
        mean: That of the SGD step so far, where it is wanted.
    """
    rows = range(len(progress))
    weights = training.weights.clone()
    states = [training.optimizer_state(row) for row in rows]
    now = _name("now", weights, states)
    training.restore(rows)
    kept = _name("kept", training.weights, [training.optimizer_state(row) for row in rows])
    training.overwrite(weights, states)
    text = json.dumps([asdict(one) for one in progress])
    encoded = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    means = {} if mean is None else _name("mean", mean, [{} for _ in rows])
    return {**now, **kept, **means, _PROGRESS: encoded}


def resume(training: Resumable, state: Mapping[str, Tensor]) -> list[Progress]:
    """Go on where ``describe`` was called, in a training of the same individuals."""
    text = bytes(state[_PROGRESS].numpy())
    progress = [Progress(**one) for one in json.loads(text)]
    training.overwrite(*_read("kept", training.weights, state))
    training.keep(range(len(progress)))
    training.overwrite(*_read("now", training.weights, state))
    return progress


def resume_mean(like: Matrix, state: Mapping[str, Tensor]) -> Matrix:
    """The mean that ``describe`` was given."""
    return _read("mean", like, state)[0]


def _name(point: str, weights: Matrix, states: Sequence[State]) -> State:
    named = {}
    for row, state in enumerate(states):
        for name, tensor in weights.read_row(row).items():
            named[f"{point}.{row}.weights.{name}"] = tensor.to("cpu", copy=True)
        for name, tensor in state.items():
            named[f"{point}.{row}.optimizer.{name}"] = tensor
    return named


def _read(point: str, like: Matrix, state: Mapping[str, Tensor]) -> tuple[Matrix, list[State]]:
    weights = Matrix.zeros(like.layout, like.n_rows, like.device)
    states = []
    for row in range(like.n_rows):
        weights.write_row(row, _below(f"{point}.{row}.weights.", state))
        states.append(_below(f"{point}.{row}.optimizer.", state))
    return weights, states


def _below(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The tensors whose names begin like this, without the beginning."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
