"""How founders begin: each trains with several species in turn, and keeps what took it furthest.

An *audition* is the beginning of an SGD step, from a founder's birth on, with one candidate set of
species and hyperparameters. A founder's SGD step is all of its auditions; it ends where the best
of them did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.trainer.preemption import Checkpoints
from optuna_esgd.trainer.progress import State

_HELD = "auditions"
_UNDER_WAY = "audition."
_SNAPSHOTS = ("weights", "optimizer_state")


class Auditions:
    """The best of each founder's auditions so far; to the one under way, its checkpoints.

    Args:
        checkpoints: Of the whole SGD step. Where an earlier worker got to is read at once.

    Attributes:
        n_held: How many auditions are over.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self.n_held = 0
        self._best: dict[int, Outcome] = {}
        self._saved: State | None = None
        state = checkpoints.load()
        if state is not None:
            self.n_held, self._best = _read(state)
            self._saved = {
                name.removeprefix(_UNDER_WAY): tensor
                for name, tensor in state.items()
                if name.startswith(_UNDER_WAY)
            }

    def introduce(self, candidate: Individual) -> Individual:
        """The candidate with its birth fitness, if an audition before has found that."""
        before = self._best.get(candidate.reference.number)
        if before is None or before.birth_fitness is None:
            return candidate
        return replace(candidate, birth_fitness=before.birth_fitness)

    def hold(self, candidates: Sequence[Individual], outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes of one audition."""
        trained_with = {one.reference.number: one for one in candidates}
        for outcome in outcomes:
            candidate = trained_with[outcome.number]
            named = replace(
                outcome,
                species=candidate.species,
                hyperparameters=candidate.hyperparameters,
            )
            before = self._best.get(outcome.number)
            self._best[outcome.number] = named if before is None else _better(before, named)
        self.n_held += 1

    def pause(self) -> None:
        """Let the worker stop, or save, between two auditions.

        Raises:
            Preempted: The worker was asked to stop.
        """
        self._checkpoints.epoch_done(self._describe)

    @property
    def outcomes(self) -> list[Outcome]:
        """Of each founder, that of its best audition, at the cost of all of them."""
        return list(self._best.values())

    def load(self) -> Mapping[str, Tensor] | None:
        """Where an earlier worker got to in the audition under way."""
        saved, self._saved = self._saved, None
        return saved or None

    def epoch_done(self, state: Callable[[], State]) -> None:
        """An epoch of an audition has ended, and others of it follow.

        Raises:
            Preempted: The worker was asked to stop.
        """
        self._checkpoints.epoch_done(
            lambda: {
                **self._describe(),
                **{_UNDER_WAY + name: tensor for name, tensor in state().items()},
            }
        )

    def _describe(self) -> State:
        """All that is held, as named tensors."""
        tensors: State = {}
        records = []
        for one in self._best.values():
            records.append(asdict(replace(one, weights=None, optimizer_state=None)))
            for what in _SNAPSHOTS:
                snapshot: Snapshot | None = getattr(one, what)
                if snapshot is not None:
                    name = _name(one.number, what)
                    tensors[f"{name}.manifest"] = _as_tensor(snapshot.manifest)
                    tensors[f"{name}.payload"] = _as_tensor(snapshot.payload)
        text = json.dumps({"n_held": self.n_held, "outcomes": records})
        return {**tensors, _HELD: _as_tensor(text.encode())}


def _better(before: Outcome, after: Outcome) -> Outcome:
    """The fitter of two auditions, the earlier one of equals; both are paid for."""
    kept = after if after.fitness < before.fitness else before
    return replace(
        kept,
        birth_fitness=before.birth_fitness,
        n_gradients=before.n_gradients + after.n_gradients,
        n_forwards=before.n_forwards + after.n_forwards,
        n_evaluations=before.n_evaluations + after.n_evaluations,
    )


def _read(state: Mapping[str, Tensor]) -> tuple[int, dict[int, Outcome]]:
    """What ``Auditions`` described."""
    held: dict[str, Any] = json.loads(_as_bytes(state[_HELD]))
    best = {}
    for record in held["outcomes"]:
        snapshots = {}
        for what in _SNAPSHOTS:
            name = _name(record["number"], what)
            if f"{name}.manifest" in state:
                manifest = _as_bytes(state[f"{name}.manifest"])
                snapshots[what] = Snapshot(manifest, _as_bytes(state[f"{name}.payload"]))
        best[int(record["number"])] = Outcome(**{**record, **snapshots})
    return int(held["n_held"]), best


def _name(number: int, what: str) -> str:
    return f"held.{number}.{what}"


def _as_tensor(data: bytes | bytearray | memoryview) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def _as_bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.numpy())
