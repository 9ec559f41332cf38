"""A slot that another worker took while it was being written, and ended with other bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optuna_esgd as esgd
from optuna_esgd.engine.actions import Commit
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.individual import Claim, Reference, SlotKey
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.store import write_behind
from optuna_esgd.store.write_behind import WriteBehind
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import NoCheckpoints, Preemption
from optuna_esgd.trainer.replay import digest
from optuna_esgd.worker.work import work
from tests.trainer.studies import make_study, make_task

LAST = SlotKey(0, 0, 1)


def rounded_elsewhere(outcome: Outcome) -> Outcome:
    """As another kind of processor may end it, if far worse."""
    assert outcome.weights is not None
    weights = np.frombuffer(bytes(outcome.weights.payload), dtype=np.float32) * np.float32(1.5)
    return replace(outcome, weights=Snapshot(outcome.weights.manifest, weights.tobytes()))


class Thief:
    """Takes the last slot of generation 0 once, finishes it, plans the next round, and dies."""

    def __init__(self, loop: WorkLoop) -> None:
        self._loop = loop
        self.n_stolen = 0

    def steal(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        population = self._loop.population
        if claim.slot.key != LAST or self.n_stolen:
            return
        self.n_stolen += 1
        assert population.renew(claim, lease_seconds=-1.0)
        theirs = population.claim(LAST, worker="thief", lease_seconds=60)
        assert theirs is not None
        assert population.finish(theirs, [rounded_elsewhere(one) for one in outcomes])
        action = decide(population.facts(), self._loop.configuration, self._loop._explore)
        assert isinstance(action, Commit)
        assert population.commit_plan(action.plan)
        assert population.claim(action.plan.slot_keys[0], worker="thief", lease_seconds=0.5)


@pytest.mark.parametrize("n_rounds", [0, 1])
def test_everything_follows_from_what_is_stored(
    n_rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from what the worker that lost the slot had in memory."""
    monkeypatch.setattr(write_behind, "_SHORT_SECONDS", 0.0)
    study = make_study(
        4,
        storage=f"sqlite:///{tmp_path}/stolen.db",
        n_generations=2,
        n_epochs=1,
        n_evolution_rounds=n_rounds,
        n_offspring=4 * n_rounds,
        lease_seconds=2.0,
    )
    trainer = esgd.ESGDTrainer(make_task(), cohort_size=2, backend="rows")
    loop = trainer.open(study)
    population, thief, write = loop.population, Thief(loop), WriteBehind._write

    def write_too_late(self: WriteBehind, keeping: Any, claim: Claim, *rest: Any) -> bool:
        thief.steal(claim, rest[0])
        return write(self, keeping, claim, *rest)

    monkeypatch.setattr(WriteBehind, "_write", write_too_late)
    assert work(trainer, study, checkpoint_seconds=math.inf, preemption=Preemption())
    assert thief.n_stolen == 1
    fresh = esgd.ESGDTrainer(make_task(), cohort_size=2, backend="rows").open(study).workshop
    fresh.worker_name = None
    everyone = {one.reference: one for one in population.individuals()}
    for slot in population.slots():
        members = [everyone[Reference(*slot.key[:2], number)] for number in slot.numbers]
        assert all(one.fitness is not None for one in members)
        if slot.key.round:
            scored = fresh.evaluate(members, best_fitness=-math.inf)
            assert [one.fitness for one in scored] == [one.fitness for one in members]
        elif slot.key.generation:
            born = [replace(one, fitness=None) for one in members]
            trained = sorted(fresh.train(born, NoCheckpoints()), key=lambda one: one.number)
            digests = [digest(one.weights) for one in trained if one.weights]
            assert digests == [one.weights for one in members]
