"""What a worker knows without reading is what it would read, however many others work."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optuna_esgd.engine.actions import Action, Commit, Stop
from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import NO_FACTS, Claim, Facts, Individual, Reference
from optuna_esgd.engine.ports import Explore, Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import Value
from optuna_esgd.store import write_behind
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.verification import verify
from optuna_esgd.store.write_behind import WriteBehind
from optuna_esgd.testing.examples import example_snapshot
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Checkpoints, NoCheckpoints
from tests.store.populations import make_population


class Workshop:
    """Fitness is a random number; some diverge."""

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        return [
            Outcome(
                number=one.reference.number,
                fitness=_draw(one) if one.reference.number else float("nan"),
                birth_fitness=_draw(one) if one.birth_fitness is None else None,
                weights=example_snapshot(one.reference, 100),
                n_epochs=3,
            )
            for one in individuals
        ]

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        return [
            Outcome(
                number=one.reference.number,
                fitness=_draw(one),
                n_evaluations=1,
                weights=example_snapshot(one.reference, 100) if _draw(one) < 0 else None,
            )
            for one in offspring
        ]

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        raise AssertionError("nothing fails here")


class Watched(WorkLoop):
    """Counts what it foresees; each time it is what would have been read."""

    n_foreseen = 0

    def decide(self) -> Action:
        if self._are_foreseen:
            self.n_foreseen += 1
            self._store.settle()
            _check(self._facts, self.population)
        return super().decide()


def _draw(one: Individual) -> float:
    """Different for whoever has other parents."""
    return float(stream(0, *one.reference, "fitness", str(one.parents)).normal())


def _explore(
    births: Sequence[Individual], parents: Mapping[Reference, Individual]
) -> list[tuple[str, Mapping[str, Value]]]:
    """As a sampler of somebody else's may do: with NumPy's numbers."""
    values: dict[str, Any] = {"lr": np.float32(0.1), "n": np.int64(3), "on": np.bool_(1), "x": 0.1}
    return [("SGD", values) for _ in births]


def _check(foreseen: Facts, population: Population) -> None:
    """Others may have gone on meanwhile, as they may after reading."""
    read = population.individuals(generation=foreseen.generation)
    stored = {one.reference: _known(one) for one in read}
    for one in foreseen.individuals:
        now = stored[one.reference]
        assert _known(one) == now or (one.fitness is None and now.fitness is not None)
        kinds = tuple(map(type, one.hyperparameters.values()))
        if not isinstance(population, MemoryPopulation):
            assert kinds in ((float, int, bool, float), ()), "what JSON gives back"
    slots = {one.key: one for one in population.slots(generation=foreseen.generation)}
    for slot in foreseen.slots:
        assert slots[slot.key].numbers == slot.numbers
        assert slot.state == "free" or slots[slot.key].state == "finished"
    facts = population.facts()
    if (facts.generation, facts.round) == (foreseen.generation, foreseen.round):
        assert [one.key for one in facts.slots] == [one.key for one in foreseen.slots]
        order = [one.reference for one in facts.individuals]
        assert order == [one.reference for one in foreseen.individuals]


def _known(one: Individual) -> Individual:
    """Without what is the store's to know, and nothing is planned from."""
    return replace(one, weights=None, is_stored=False, trial_number=None)


def _configure(cohort_size: int, n_rounds: int, *, asynchronous: bool = False) -> Configuration:
    settings = Settings(
        population_size=4,
        n_offspring=4,
        n_generations=3,
        n_evolution_rounds=n_rounds,
        asynchronous=asynchronous,
    )
    return settings.configure(seed=0, cohort_size=cohort_size, maximize=False)


Make = Callable[[Configuration], Population]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def made(configuration: Configuration) -> Population:
        if request.param == "memory":
            return MemoryPopulation(configuration.to_json())
        return make_population(f"sqlite:///{tmp_path}/foresight.db", configuration.to_json())

    return made


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize(("cohort_size", "n_rounds"), [(4, 1), (2, 1), (1, 2)])
def test_foreseen_facts_are_those_that_are_read(
    make: Make, is_ahead: bool, n_workers: int, cohort_size: int, n_rounds: int
) -> None:
    configuration = _configure(cohort_size, n_rounds)
    population = make(configuration)
    loops = [Watched(population, configuration, _explore, Workshop()) for _ in range(n_workers)]
    _take_turns(loops, is_ahead=is_ahead)
    assert sum(loop.n_foreseen for loop in loops) >= 3 * (1 + n_rounds)
    assert _ends(population) == _ends_alone(configuration)


class Guarded(Workshop):
    """With back-off: nobody ends worse than born."""

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        ended = super().train(individuals, checkpoints)
        births = [
            end.birth_fitness if one.birth_fitness is None else one.birth_fitness
            for one, end in zip(individuals, ended, strict=True)
        ]
        return [
            replace(end, fitness=min(clean_fitness(end.fitness), birth))
            for birth, end in zip(births, ended, strict=True)
            if birth is not None
        ]


class Slow(Guarded):
    """Long enough for what is queued to be done meanwhile."""

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        time.sleep(0.05)
        return super().train(individuals, checkpoints)


class Counted(WorkLoop):
    """Counts plans that do not go with a slot."""

    n_plans = 0

    def act(self, action: Action) -> bool:
        self.n_plans += isinstance(action, Commit)
        return super().act(action)


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize(("cohort_size", "n_rounds"), [(2, 1), (1, 1), (1, 2), (2, 0)])
def test_without_a_barrier_every_slot_leads_on(
    make: Make, n_workers: int, cohort_size: int, n_rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan is stored with it: so nobody plans for others, and facts are read once per slot."""
    configuration = _configure(cohort_size, n_rounds, asynchronous=True)
    population = make(configuration)
    n_read = 0
    read = population.facts

    def counted(before: Facts = NO_FACTS) -> Facts:
        nonlocal n_read
        n_read += 1
        return read(before)

    monkeypatch.setattr(population, "facts", counted)
    loops = [
        Counted(population, configuration, explore_nothing, Guarded()) for _ in range(n_workers)
    ]
    _take_turns(loops, is_ahead=True)
    slots = population.slots()
    assert all(slot.state == "finished" for slot in slots)
    assert len(slots) == 3 * (1 + n_rounds) * 4 // cohort_size
    assert verify(population, configuration) == []
    assert sum(loop.n_plans for loop in loops) == 1, "the founders"
    assert n_read <= len(slots) + 12 * n_workers, "to begin and to wait"


@pytest.mark.parametrize("writes_behind", [False, True])
def test_without_a_barrier_a_plan_that_was_refused_is_forgotten(
    make: Make, writes_behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else will plan from other facts: other individuals by the same names."""
    monkeypatch.setattr(write_behind, "_SHORT_SECONDS", 0.0 if writes_behind else math.inf)
    configuration = _configure(1, 1, asynchronous=True)
    population = make(configuration)
    loop = WorkLoop(population, configuration, explore_nothing, Guarded())
    kind: Any = type(population)
    name = "commit_plan" if kind is MemoryPopulation else "_commit_plan"
    commit, refused = getattr(kind, name), Reference(0, 1, 3)  # of the founder that ends last

    def refuse_once(self: Any, *arguments: Any) -> bool:
        nonlocal refused
        if any(one.reference == refused for one in arguments[-1].individuals):
            refused = Reference(-1, 0, 0)
            return False
        stored: bool = commit(self, *arguments)
        return stored

    monkeypatch.setattr(kind, name, refuse_once)
    with loop.working_ahead():
        while refused.generation == 0:
            loop.act(loop.decide())
            loop._store.settle()
        action = loop.decide()
        stored = {one.reference for one in population.individuals()}
        assert {one.reference for one in loop._facts.individuals} <= stored
        assert isinstance(action, Commit), "the plan that is still to be made"
        loop.act(action)
        while loop.act(loop.decide()):
            pass
    assert all(slot.state == "finished" for slot in population.slots())
    assert verify(population, configuration) == []


def test_without_a_barrier_what_was_queued_is_not_a_slots_fault(make: Make) -> None:
    configuration = _configure(1, 1, asynchronous=True)
    population = make(configuration)
    loop = WorkLoop(population, configuration, explore_nothing, Slow())

    def fail() -> None:
        raise RuntimeError("no trial can be shown")

    def work() -> None:
        with loop.working_ahead():
            loop.act(loop.decide())
            loop.act(loop.decide())
            loop.later(fail)
            loop.act(loop.decide())
            loop.later(lambda: None)

    with pytest.raises(RuntimeError, match="no trial can be shown"):
        work()
    assert all(slot.n_failures == 0 for slot in population.slots())
    assert sum(slot.state == "finished" for slot in population.slots()) == 2


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize(("cohort_size", "n_rounds"), [(4, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(("seed", "ends_alike"), [(0, True), (1, True), (2, False), (3, False)])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_follows_from_slots_that_others_took_is_not_committed(
    make: Make,
    seed: int,
    n_workers: int,
    cohort_size: int,
    n_rounds: int,
    ends_alike: bool,
    asynchronous: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leases run out at any moment: before a slot is worked on, and while it is written.

    Whoever took it ends it like everybody else, or in another way: then what follows differs.
    """
    monkeypatch.setattr(write_behind, "_SHORT_SECONDS", 0.0)
    write = WriteBehind._write

    def write_slowly(self: WriteBehind, *arguments: Any) -> bool:
        time.sleep(0.003)
        return write(self, *arguments)

    monkeypatch.setattr(WriteBehind, "_write", write_slowly)
    configuration = _configure(cohort_size, n_rounds, asynchronous=asynchronous)
    population = make(configuration)
    thefts = stream(seed, n_workers, "thefts")

    def steal() -> None:
        claimed = [slot for slot in population.slots() if slot.state == "claimed"]
        if not claimed or thefts.random() < 0.7:
            return
        slot = claimed[thefts.integers(len(claimed))]
        mine = Claim(slot=slot, attempt=slot.attempt, worker="")
        if not population.renew(mine, lease_seconds=-1.0):  # it has just been finished
            return
        theirs = population.claim(slot.key, worker="thief", lease_seconds=60)
        if theirs is not None and thefts.random() < 0.5:
            population.release(theirs)
        elif theirs is not None:
            numbers = [Reference(*slot.key[:2], number) for number in slot.numbers]
            everyone = population.individuals(generation=slot.key.generation)
            members = [one for one in everyone if one.reference in numbers]
            train = slot.key.round == 0
            shop = Workshop()
            ended = (
                shop.train(members, NoCheckpoints())
                if train
                else shop.evaluate(members, best_fitness=0)
            )
            if not ends_alike:
                ended = [replace(one, fitness=one.fitness + 1) for one in ended]
            assert population.finish(theirs, ended)

    loops = [
        WorkLoop(population, configuration, explore_nothing, Workshop()) for _ in range(n_workers)
    ]
    _take_turns(loops, is_ahead=True, between=steal)
    assert all(slot.state == "finished" for slot in population.slots())
    if ends_alike and not asynchronous:
        assert _ends(population) == _ends_alone(configuration, explore_nothing)
    for one in population.individuals():
        shop = Workshop()
        [ended] = (
            shop.evaluate([one], best_fitness=0)
            if one.reference.round
            else shop.train([replace(one, birth_fitness=None)], NoCheckpoints())
        )
        offset = 1 if one.worker == "thief" and not ends_alike else 0
        assert one.fitness == clean_fitness(ended.fitness + offset), "by whom it was not planned"


def _take_turns(
    loops: Sequence[WorkLoop], *, is_ahead: bool, between: Callable[[], None] = lambda: None
) -> None:
    turns = stream(1, len(loops), "turns")
    running = list(loops)
    with contextlib.ExitStack() as stack:
        for loop in loops if is_ahead else ():
            stack.enter_context(loop.working_ahead())
        while running:  # whoever's turn it is
            loop = running[turns.integers(len(running))]
            action = loop.decide()
            if isinstance(action, Stop):
                running.remove(loop)
            between()
            loop.act(action)


def _ends(population: Population) -> dict[Reference, tuple[float | None, tuple[Reference, ...]]]:
    return {one.reference: (one.fitness, one.parents) for one in population.individuals()}


def _ends_alone(
    configuration: Configuration, explore: Explore = _explore
) -> dict[Reference, tuple[float | None, tuple[Reference, ...]]]:
    alone = MemoryPopulation(configuration.to_json())
    single = WorkLoop(alone, configuration, explore, Workshop())
    while single.act(single.decide()):
        pass
    return _ends(alone)
