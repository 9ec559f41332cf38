"""Slots that are finished while work goes on: what is answered, and what turns out otherwise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from optuna_esgd.engine.individual import Claim, Onward, Plan, Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import ConfigurationError, StorageError, WeightsNotFoundError
from optuna_esgd.store import write_behind
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.write_behind import WriteBehind
from optuna_esgd.testing.examples import (
    LEASE_SECONDS,
    example_configuration,
    example_plan,
    example_snapshot,
)
from tests.store.populations import make_population

CONFIGURATION = example_configuration()
FIRST, SECOND, NEXT = SlotKey(0, 0, 0), SlotKey(0, 0, 1), SlotKey(1, 0, 0)


class Gate:
    """Holds up whoever writes until it is opened; may raise there instead."""

    def __init__(self) -> None:
        self._is_open = threading.Event()
        self.error: Exception | None = None

    def open(self, after_seconds: float = 0.0) -> None:
        threading.Timer(after_seconds, self._is_open.set).start()

    def pass_through(self) -> None:
        assert self._is_open.wait(10)
        if self.error is not None:
            raise self.error


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(params=["memory", "sqlite"])
def population(
    request: pytest.FixtureRequest, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> Population:
    """Two slots of generation 0 are planned; what is finished in a thread waits at the gate."""
    monkeypatch.setattr(write_behind, "_SHORT_SECONDS", 0.0)
    kind = MemoryPopulation if request.param == "memory" else SqlPopulation
    finish = kind.finish_and_go_on

    def finish_at_the_gate(self: Any, *arguments: Any, **options: Any) -> Onward:
        if threading.current_thread() is not threading.main_thread():
            gate.pass_through()
        onward: Onward = finish(self, *arguments, **options)
        return onward

    monkeypatch.setattr(kind, "finish_and_go_on", finish_at_the_gate)
    made: Population = (
        MemoryPopulation(CONFIGURATION.to_json())
        if request.param == "memory"
        else make_population(f"sqlite:///{tmp_path}/behind.db", CONFIGURATION.to_json())
    )
    assert made.commit_plan(example_plan(0))
    return made


@pytest.fixture
def store(population: Population, gate: Gate) -> Iterator[WriteBehind]:
    store = WriteBehind(population)
    with store.opened():
        yield store
        gate.open()


def example_outcomes(claim: Claim) -> list[Outcome]:
    return [
        Outcome(
            number=number,
            fitness=float(number),
            birth_fitness=9.0 if claim.slot.key.generation == 0 else None,
            weights=example_snapshot((claim.slot.key, number)),
        )
        for number in claim.slot.numbers
    ]


def take(population: Population | WriteBehind, key: SlotKey, *, seconds: float = 60.0) -> Claim:
    claim = population.claim_one_of([key], worker="me", lease_seconds=seconds)
    assert claim is not None
    return claim


def finish(
    store: WriteBehind, claim: Claim, keys: Sequence[SlotKey] = (), plan: Plan | None = None
) -> Onward:
    return store.finish_and_go_on(
        claim, example_outcomes(claim), plan=plan, keys=keys, lease_seconds=LEASE_SECONDS
    )


def finish_both(store: WriteBehind) -> Claim:
    """Finish the first slot at once and the second behind, with a plan; what is answered."""
    first, second = take(store, FIRST), take(store, SECOND)
    assert finish(store, first).is_finished
    plan = example_plan(1)
    onward = finish(store, second, plan.slot_keys, plan)
    assert onward.claim is not None
    return onward.claim


def write_after_another(store: WriteBehind, gate: Gate, plan: Plan) -> None:
    """Somebody else stores the plan while this worker's is still to be written."""
    assert store.population.commit_plan(plan)
    gate.open()
    store.settle()


def states(population: Population) -> list[str]:
    return [slot.state for slot in population.slots()]


def steal(population: Population, key: SlotKey) -> Claim:
    """The lease has run out, and another worker was there."""
    mine = next(slot for slot in population.slots() if slot.key == key)
    held = Claim(slot=mine, attempt=mine.attempt, worker="me")
    assert population.renew(held, lease_seconds=1e-3)
    time.sleep(0.01)
    claim = population.claim(key, worker="thief", lease_seconds=60)
    assert claim is not None
    return claim


def test_a_slot_is_finished_while_the_next_one_is_worked_on(
    store: WriteBehind, gate: Gate
) -> None:
    onward = finish(store, take(store, FIRST), [SECOND])
    assert onward.is_finished
    assert onward.claim is not None
    assert onward.claim.slot.key == SECOND
    assert states(store.population) == ["claimed", "claimed"]
    gate.open()
    store.settle()
    assert states(store.population) == ["finished", "claimed"]
    assert finish(store, onward.claim).is_finished
    assert not store.is_doubtful


def test_the_claim_on_a_new_plan_is_the_one_that_is_made(store: WriteBehind, gate: Gate) -> None:
    answered = finish_both(store)
    assert len(states(store.population)) == 2
    assert store.renew(answered, lease_seconds=60), "there is nothing to renew yet"
    gate.open()
    store.settle()
    made = next(slot for slot in store.population.slots() if slot.key == NEXT)
    assert answered == Claim(slot=made, attempt=made.attempt, worker="me")
    assert store.renew(answered, lease_seconds=60)
    assert finish(store, answered).is_finished
    assert not store.is_doubtful


def test_a_slot_elsewhere_is_claimed_before_the_plan_is_written(
    store: WriteBehind, gate: Gate
) -> None:
    """Without a barrier: who has planned for some places goes on with others."""
    plan = example_plan(0, round_=1)
    onward = finish(store, take(store, FIRST), [SECOND, *plan.slot_keys], plan)
    assert (onward.is_finished, onward.is_planned) == (True, True)
    assert onward.claim is not None
    assert onward.claim.slot.key == SECOND
    assert states(store.population) == ["claimed", "claimed"]
    gate.open()
    store.settle()
    assert states(store.population) == ["finished", "claimed", "free", "free"]
    assert not store.is_doubtful


def test_a_plan_that_comes_too_late_is_doubtful_and_the_claim_elsewhere_stays(
    store: WriteBehind, gate: Gate
) -> None:
    """What was answered to be planned may be planned otherwise by now."""
    plan = example_plan(0, round_=1)
    onward = finish(store, take(store, FIRST), [SECOND], plan)
    assert onward.claim is not None
    write_after_another(store, gate, plan)
    assert store.is_doubtful
    assert states(store.population) == ["finished", "claimed", "free", "free"]
    assert store.release(onward.claim)


def test_a_slot_of_somebody_elses_plan_is_not_kept(store: WriteBehind, gate: Gate) -> None:
    """It has the name that was expected, but perhaps others in it."""
    claim, plan = take(store, FIRST), example_plan(0, round_=1)
    onward = finish(store, claim, plan.slot_keys, plan)
    assert onward.claim is not None
    write_after_another(store, gate, plan)
    assert store.is_doubtful
    assert states(store.population) == ["finished", "free", "free", "free"]
    assert not finish(store, onward.claim).is_finished


def test_where_all_else_is_taken_the_new_plan_is_gone_on_with(
    store: WriteBehind, gate: Gate
) -> None:
    claim, plan = take(store, FIRST), example_plan(0, round_=1)
    assert store.population.claim(SECOND, worker="other", lease_seconds=60) is not None
    onward = finish(store, claim, [SECOND, *plan.slot_keys], plan)
    assert onward.claim is not None
    assert onward.claim.slot.key == plan.slot_keys[0]
    gate.open()
    store.settle()
    assert states(store.population) == ["finished", "claimed", "claimed", "free"]


def test_where_nothing_is_left_to_claim_it_is_written_at_once(store: WriteBehind) -> None:
    claim = take(store, FIRST)
    assert store.population.claim(SECOND, worker="another", lease_seconds=60)
    onward = finish(store, claim, [SECOND])
    assert onward == Onward(is_finished=True)
    assert states(store.population) == ["finished", "claimed"]


def test_after_short_work_it_is_written_at_once(
    store: WriteBehind, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind, "_SHORT_SECONDS", 60.0)
    gate.open()
    first = finish(store, take(store, FIRST), [SECOND])
    assert first.claim is not None
    main = []
    plan = example_plan(1)
    monkeypatch.setattr(store, "_write", lambda *_: main.append("behind"))
    assert finish(store, first.claim, plan.slot_keys, plan).is_planned
    store.queue(lambda: main.append(threading.current_thread().name))
    assert main == ["MainThread"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.facts(),
        lambda store: store.individuals(generation=0),
        lambda store: store.read_weights(Reference(0, 0, 0)),
        lambda store: store.read_optimizer_state(Reference(0, 0, 0)),
        lambda store: store.read_checkpoint(FIRST),
        lambda store: store.claim_one_of([FIRST], worker="me", lease_seconds=60),
        lambda store: store.commit_plan(example_plan(0)),
        lambda store: store.release(take(store, SlotKey(1, 0, 1))),
    ],
)
def test_what_is_asked_is_answered_after_what_is_being_written(
    store: WriteBehind, gate: Gate, ask: Callable[[WriteBehind], object]
) -> None:
    finish_both(store)
    gate.open(after_seconds=0.05)
    ask(store)
    assert len(states(store.population)) == 4
    assert not store.is_doubtful


def test_a_claim_that_was_not_made_is_void_even_if_another_looks_the_same(
    store: WriteBehind, gate: Gate
) -> None:
    """Whoever stole the slot has planned the same, and claimed the same slot the first time."""
    population = store.population
    first, second = take(store, FIRST), take(store, SECOND)
    assert finish(store, first).is_finished
    plan = example_plan(1)
    answered = finish(store, second, plan.slot_keys, plan).claim
    assert answered is not None
    thief = steal(population, SECOND)
    assert population.finish(thief, example_outcomes(thief))
    assert population.commit_plan(plan)
    theirs = population.claim(NEXT, worker="thief", lease_seconds=60)
    assert theirs is not None
    assert (theirs.slot, theirs.attempt) == (answered.slot, answered.attempt)
    gate.open()
    store.settle()
    assert store.is_doubtful
    assert not store.renew(answered, lease_seconds=60)
    assert not store.save_checkpoint(answered, Snapshot(b"{}", b""), lease_seconds=60)
    assert not store.release(answered)
    assert finish(store, answered, plan.slot_keys) == Onward(is_finished=False)
    store.facts()
    assert not store.is_doubtful
    assert population.finish(theirs, example_outcomes(theirs))
    everyone = population.individuals()
    workers = [one.worker for one in everyone if one.reference.number in (0, 2)]
    assert workers == ["me", "thief", "thief", ""]


def test_what_follows_from_a_lost_slot_is_not_planned(store: WriteBehind, gate: Gate) -> None:
    """The claim that came before it is still good, and its slot is finished."""
    onward = finish(store, take(store, FIRST), [SECOND])
    assert onward.claim is not None
    steal(store.population, FIRST)
    gate.open()
    plan = example_plan(1)
    last = finish(store, onward.claim, plan.slot_keys, plan)
    assert last == Onward(is_finished=True)
    assert store.is_doubtful
    assert states(store.population) == ["claimed", "finished"]


def test_an_outcome_that_cannot_be_stored_counts_as_a_failure(
    store: WriteBehind, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.error = ValueError("out of cheese")
    finish_both(store)
    gate.open()
    store.settle()
    slot = store.population.slots()[1]
    assert (slot.state, slot.n_failures) == ("free", 1)
    assert "out of cheese" in store.population.slot_failure(SECOND)
    assert "out of cheese" in caplog.text
    assert store.is_doubtful


def test_what_ends_a_worker_elsewhere_does_so_here(store: WriteBehind, gate: Gate) -> None:
    gate.error = ConfigurationError("out of cheese")
    finish_both(store)
    gate.open()
    with pytest.raises(ConfigurationError, match="cheese"):
        store.settle()
    slot = store.population.slots()[1]
    assert (slot.state, slot.n_failures) == ("free", 1)


def test_a_database_that_fails_is_told_of_once_whatever_is_asked_next(
    store: WriteBehind, gate: Gate
) -> None:
    gate.error = StorageError("out of cheese")
    answered = finish_both(store)
    gate.open()
    with pytest.raises(StorageError, match="cheese"):
        store.read_weights(Reference(0, 0, 0))
    assert not store.release(answered), "nobody knows whether it was made"
    assert store.is_doubtful
    assert len(store.facts().slots) == 2


def test_a_lease_is_kept_however_long_the_thread_is_busy(store: WriteBehind, gate: Gate) -> None:
    claim = take(store, FIRST, seconds=0.3)
    busy = threading.Event()
    store.queue(lambda: busy.wait(10))
    onward = store.finish_and_go_on(
        claim, example_outcomes(claim), plan=None, keys=[SECOND], lease_seconds=0.3
    )
    assert onward.is_finished
    time.sleep(0.7)
    assert store.population.claim(FIRST, worker="thief", lease_seconds=60) is None
    busy.set()
    gate.open()
    store.settle()
    assert not store.is_doubtful


def test_tasks_are_done_in_order_and_raise_outside_of_a_slots_work(
    store: WriteBehind, gate: Gate
) -> None:
    seen: list[list[str]] = []
    onward = finish(store, take(store, FIRST), [SECOND])
    store.queue(lambda: seen.append(states(store.population)))
    store.queue(lambda: 1 / 0)
    assert seen == []
    gate.open()
    store.settle()
    while not all(one.done() for one in store._queued):
        time.sleep(0.01)
    assert seen == [["finished", "claimed"]]
    assert onward.claim is not None
    assert store.renew(onward.claim, lease_seconds=60)
    with pytest.raises(WeightsNotFoundError):
        store.read_weights(Reference(0, 0, 2))
    with pytest.raises(ZeroDivisionError):
        store.facts()
    store.facts()
    store.queue(lambda: 1 / 0)
    store.queue(lambda: seen.append([]))
    while not all(one.done() for one in store._queued):
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        store.check()
    assert seen[-1] == []


def test_when_the_block_ends_all_is_written(population: Population, gate: Gate) -> None:
    store = WriteBehind(population)
    done: list[int] = []
    with store.opened():
        finish_both(store)
        store.queue(lambda: done.append(1))
        gate.open(after_seconds=0.05)
    assert states(population) == ["finished", "finished", "claimed", "free"]
    assert done == [1]
    with pytest.raises(ZeroDivisionError), store.opened():
        store.queue(lambda: 1 / 0)  # nobody asks anything after it
    with pytest.raises(WeightsNotFoundError), store.opened():
        store.read_weights(Reference(0, 0, 99))


def test_outside_of_a_block_everything_is_done_at_once(population: Population) -> None:
    store = WriteBehind(population)
    finish_both(store)
    assert states(population) == ["finished", "finished", "claimed", "free"]
    done: list[str] = []
    store.queue(lambda: done.append(threading.current_thread().name))
    assert done == ["MainThread"]


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("is_after_the_wait", [False, True])
def test_a_wait_that_is_interrupted_goes_on_later(
    store: WriteBehind,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    is_written: bool,
    is_after_the_wait: bool,
) -> None:
    """Also in the moment in which it ends."""
    answered = finish_both(store)
    if not is_written:
        steal(store.population, SECOND)
    assert store._writing is not None
    done = store._writing.done
    result = done.result

    def interrupted(timeout: float | None = None) -> bool:
        monkeypatch.setattr(done, "result", result)
        if is_after_the_wait:
            gate.open()
            result(timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(done, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.settle()
    gate.open()
    store.settle()
    assert store.is_doubtful != is_written
    assert len(states(store.population)) == (4 if is_written else 2)
    assert store.release(answered) == is_written


def test_a_doubt_that_is_interrupted_is_not_lost(gate: Gate, population: Population) -> None:
    class Interrupted(WriteBehind):
        """Interrupted as soon as it doubts."""

        n_interruptions = 0

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "is_doubtful" and value and not self.n_interruptions:
                self.n_interruptions += 1
                raise KeyboardInterrupt

    store = Interrupted(population)
    with store.opened():
        answered = finish_both(store)
        thief = steal(population, SECOND)
        assert population.finish(thief, example_outcomes(thief))
        assert population.commit_plan(example_plan(1))
        theirs = population.claim(NEXT, worker="thief", lease_seconds=60)
        assert theirs is not None
        gate.open()
        with pytest.raises(KeyboardInterrupt):
            store.settle()
        assert not store.release(answered)
    assert population.finish(theirs, example_outcomes(theirs))


def test_the_claim_of_somebody_else_is_not_renewed_before_anybody_has_looked(
    store: WriteBehind, gate: Gate
) -> None:
    answered = finish_both(store)
    population = store.population
    thief = steal(population, SECOND)
    assert population.finish(thief, example_outcomes(thief))
    assert population.commit_plan(example_plan(1))
    assert population.claim(NEXT, worker="thief", lease_seconds=0.05)
    gate.open()
    assert store._writing is not None
    while not store._writing.is_done:
        time.sleep(0.01)
    time.sleep(0.05)
    assert not store.renew(answered, lease_seconds=60)
    assert population.claim(NEXT, worker="third", lease_seconds=60) is not None


def test_slots_of_another_plan_are_not_claimed(store: WriteBehind, gate: Gate) -> None:
    finish_both(store)
    population = store.population
    thief = steal(population, SECOND)
    assert population.finish(thief, example_outcomes(thief))
    assert population.commit_plan(example_plan(1))
    gate.open()
    assert store.claim_one_of([NEXT], worker="me", lease_seconds=60) is None
    assert not store.commit_plan(example_plan(2))
    store.facts()
    assert store.claim_one_of([NEXT], worker="me", lease_seconds=60) is not None


def test_outcomes_are_what_would_have_been_written(store: WriteBehind, gate: Gate) -> None:
    gate.open()
    finish_both(store)
    store.settle()
    expected: dict[int, Outcome] = {}
    for cohort, key in enumerate((FIRST, SECOND)):
        slot = store.population.slots()[cohort]
        claim = Claim(slot=slot, attempt=1, worker="me")
        assert slot.key == key
        expected |= {one.number: one for one in example_outcomes(claim)}
    for number, outcome in expected.items():
        assert store.read_weights(Reference(0, 0, number)) == outcome.weights
        assert store.individuals()[number].fitness == outcome.fitness
