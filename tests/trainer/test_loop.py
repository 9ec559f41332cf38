"""The work loop at its edges: lost leases, interruptions, failures, waiting."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from optuna_esgd.engine.actions import Commit, Stop, Train
from optuna_esgd.engine.configuration import Settings
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import NO_FACTS, Facts, Individual, Onward
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import StorageError
from optuna_esgd.store.lease import keep_lease
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Checkpoints

CONFIGURATION = Settings(population_size=2, n_offspring=2, n_generations=2, lease_seconds=0.3)


class Workshop:
    """Trains by a function of the test's."""

    def __init__(self, train: Callable[[Sequence[Individual]], list[Outcome]]) -> None:
        self._train = train
        self.kept: list[Individual] = []

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        return self._train(individuals)

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        return [Outcome(number=one.reference.number, fitness=9.0) for one in offspring]

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        self.kept += individuals
        return trained(individuals)


def trained(individuals: Sequence[Individual]) -> list[Outcome]:
    weights = Snapshot(b"{}", b"")
    return [
        Outcome(number=one.reference.number, fitness=1.0, birth_fitness=2.0, weights=weights)
        for one in individuals
    ]


def make_loop(
    train: Callable[[Sequence[Individual]], list[Outcome]] = trained,
    population: MemoryPopulation | None = None,
    settings: Settings = CONFIGURATION,
) -> WorkLoop:
    configuration = settings.configure(seed=0, cohort_size=1, maximize=False)
    if population is None:
        population = MemoryPopulation(configuration.to_json())
    return WorkLoop(population, configuration, explore_nothing, Workshop(train))


def begin(loop: WorkLoop) -> Train:
    loop.act(loop.decide())
    action = loop.decide()
    assert isinstance(action, Train)
    return action


def test_work_whose_lease_was_lost_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    def slow(individuals: Sequence[Individual]) -> list[Outcome]:
        key = next(s.key for s in loop.population.slots() if s.state == "claimed")
        held = loop.population.slots()[key.cohort]
        loop.population._slots[key].lease_until = 0.0
        assert loop.population.claim(key, worker="thief", lease_seconds=60)
        assert held.attempt == 1
        return trained(individuals)

    loop = make_loop(slow)
    with caplog.at_level(logging.WARNING):
        loop.act(Train(begin(loop).slots[:1]))
    assert "ran out before its work was done" in caplog.text
    assert all(one.fitness is None for one in loop.population.individuals())


def test_work_that_raises_after_its_lease_was_lost_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it needed may have been collected meanwhile."""

    def too_late(individuals: Sequence[Individual]) -> list[Outcome]:
        key = next(s.key for s in loop.population.slots() if s.state == "claimed")
        loop.population._slots[key].lease_until = 0.0
        assert loop.population.claim(key, worker="thief", lease_seconds=60)
        raise ValueError("out of cheese")

    loop = make_loop(too_late)
    with caplog.at_level(logging.WARNING):
        loop.act(Train(begin(loop).slots[:1]))
    assert "ran out before its work was done" in caplog.text
    assert all(slot.n_failures == 0 for slot in loop.population.slots())


def test_a_write_that_failed_last_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked to stop asks the database for nothing after it."""

    def full(self: MemoryPopulation, *_: object, **options: object) -> Onward:
        raise StorageError("The disk is full.")

    monkeypatch.setattr("optuna_esgd.store.write_behind._SHORT_SECONDS", 0.0)
    monkeypatch.setattr(MemoryPopulation, "finish_and_go_on", full)
    loop = make_loop()

    def work() -> None:
        with loop.working_ahead():
            loop.act(begin(loop))

    with pytest.raises(StorageError, match="full"):
        work()


def test_an_interruption_gives_the_slot_back_without_counting() -> None:
    def interrupted(individuals: Sequence[Individual]) -> list[Outcome]:
        raise KeyboardInterrupt

    loop = make_loop(interrupted)
    action = begin(loop)
    with pytest.raises(KeyboardInterrupt):
        loop.act(action)
    assert all(slot.is_claimable and slot.n_failures == 0 for slot in loop.population.slots())


def test_a_failure_is_kept_with_its_traceback_and_births_stand_after_three() -> None:
    def failing(individuals: Sequence[Individual]) -> list[Outcome]:
        raise ValueError("out of cheese")

    loop = make_loop(failing)
    action = Train(begin(loop).slots[:1])
    for _ in range(3):
        with pytest.raises(ValueError, match="cheese"):
            loop.act(Train((loop.population.slots()[0],)))
    assert "out of cheese" in loop.population.slot_failure(action.slots[0].key)
    loop.act(Train((loop.population.slots()[0],)))
    assert loop.population.slots()[0].state == "finished"


class Counted(MemoryPopulation):
    """Counts how often the facts are read."""

    n_readings = 0

    def facts(self, before: Facts = NO_FACTS) -> Facts:
        self.n_readings += 1
        return super().facts(before)


def test_one_worker_reads_the_facts_once() -> None:
    settings = Settings(population_size=4, n_offspring=4, n_generations=2)
    population = Counted(settings.configure(seed=0, cohort_size=1, maximize=False).to_json())
    loop = make_loop(population=population, settings=settings)
    n_slots = 0
    while loop.act(action := loop.decide()):
        n_slots += not isinstance(action, Commit)
    assert n_slots == 2 * (4 + 4)
    assert population.n_readings == 1, "what follows from its own commits it knows"


def test_facts_are_read_once_a_round_of_two_workers() -> None:
    settings = Settings(population_size=4, n_offspring=4, n_generations=2)
    population = Counted(settings.configure(seed=0, cohort_size=1, maximize=False).to_json())
    loops = [make_loop(population=population, settings=settings) for _ in range(2)]
    n_slots = [0, 0]
    is_open = [True, True]
    while any(is_open):
        for at, loop in enumerate(loops):
            action = loop.decide()
            n_slots[at] += not isinstance(action, Commit | Stop)
            is_open[at] = loop.act(action)
    assert min(n_slots) >= 4, "both have worked"
    assert all(one.fitness is not None for one in population.individuals())
    assert population.n_readings <= 2 * 4 * 2 + 2, "each at most twice a round, and at the end"


def test_slots_that_others_took_meanwhile_are_not_waited_for() -> None:
    settings = Settings(population_size=4, n_offspring=0, selection="truncation", n_generations=1)
    loop = make_loop(settings=settings)
    loop.act(begin(loop))
    for slot in loop.population.slots()[1:]:
        claim = loop.population.claim(slot.key, worker="another", lease_seconds=60)
        assert claim is not None
        numbers = slot.numbers
        outcomes = [Outcome(number=number, fitness=1.0, birth_fitness=1.0) for number in numbers]
        assert loop.population.finish(claim, outcomes)
    assert loop.act(loop.decide()), "they were still offered, and cannot be claimed"
    assert isinstance(loop.decide(), Stop)


def test_facts_are_not_read_while_a_cohort_is_handed_out() -> None:
    settings = Settings(population_size=4, n_offspring=4, n_generations=2)
    configuration = settings.configure(seed=0, cohort_size=4, maximize=False)
    population = Counted(configuration.to_json())
    loop = WorkLoop(population, configuration, explore_nothing, Workshop(trained))
    given = [loop.next_individual(number, lambda: None) for number in range(4)]
    after_first = population.n_readings
    given += [loop.next_individual(number, lambda: None) for number in range(4, 8)]
    assert [one.reference for one in given if one] == [(k, 0, n) for k in (0, 1) for n in range(4)]
    assert population.n_readings <= 2 * after_first
    assert loop.next_individual(8, lambda: None) is None


def test_next_individual_ends_with_the_last_generation() -> None:
    loop = make_loop()
    given = [loop.next_individual(number, lambda: None) for number in range(6)]
    references = [one.reference for one in given if one is not None]
    assert references == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
    assert given[4:] == [None, None]
    assert {one.fitness for one in loop.population.individuals()} == {1.0, 9.0}


def test_waiting_is_announced_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_esgd.trainer.loop._LONGEST_WAIT_SECONDS", 0.001)
    loop = make_loop()
    for slot in begin(loop).slots:
        loop.population.claim(slot.key, worker="other", lease_seconds=60)
    for _ in range(40):
        assert loop.act(loop.decide())
    assert caplog.text.count("Waiting for other workers") == 1


def test_a_lease_is_kept_while_the_work_goes_on() -> None:
    loop = make_loop()
    key = begin(loop).slots[0].key
    claim = loop.population.claim(key, worker="me", lease_seconds=0.3)
    assert claim is not None
    n_threads = threading.active_count()
    with keep_lease(loop.population, claim, 0.3):
        time.sleep(0.7)
        assert loop.population.claim(key, worker="thief", lease_seconds=0.3) is None
    time.sleep(0.4)
    assert threading.active_count() <= n_threads, "its thread has ended"
    assert loop.population.claim(key, worker="thief", lease_seconds=0.3) is not None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_garbage_is_collected_and_progress_logged_once_per_generation(
    asynchronous: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever plans last or first: asynchronously the cohorts take turns."""
    settings = replace(
        CONFIGURATION, population_size=3, n_generations=6, asynchronous=asynchronous
    )
    loop = make_loop(settings=settings)
    collections: list[int] = []
    monkeypatch.setattr(loop.population, "collect_garbage", lambda: collections.append(1))
    with caplog.at_level(logging.INFO):
        while loop.act(loop.decide()):
            pass
    assert len(collections) == 5
    done = [line for line in caplog.messages if "done: best fitness" in line]
    assert [line.split()[1] for line in done] == ["0", "1", "2", "3", "4"]


def test_the_next_slot_is_claimed_with_the_end_of_the_last_one() -> None:
    settings = Settings(population_size=4, n_offspring=4, n_generations=2)
    loop = make_loop(settings=settings)
    loop.claims_ahead = True
    loop.act(loop.decide())
    while loop.act(action := loop.decide()):
        claimed = [slot for slot in loop.population.slots() if slot.state == "claimed"]
        assert len(claimed) == (not isinstance(loop.decide(), Stop))
        assert all(slot.attempt == 1 for slot in claimed)
    assert isinstance(action, Stop)
    assert all(slot.state == "finished" for slot in loop.population.slots())


def test_a_slot_that_was_claimed_ahead_is_given_back() -> None:
    loop = make_loop(settings=Settings(population_size=4, n_generations=2))
    loop.claims_ahead = True
    loop.act(begin(loop))
    assert [slot.state for slot in loop.population.slots()][:2] == ["finished", "claimed"]
    loop.give_back()
    loop.give_back()
    assert all(slot.is_claimable for slot in loop.population.slots()[1:4])
    while loop.act(loop.decide()):
        pass
    assert all(slot.state == "finished" for slot in loop.population.slots())


def test_who_is_asked_to_stop_claims_nothing_ahead() -> None:
    def stopped(individuals: Sequence[Individual]) -> list[Outcome]:
        loop.preemption.request(interrupt=False)
        return trained(individuals)

    loop = make_loop(stopped)
    loop.claims_ahead = True
    loop.act(begin(loop))
    assert [slot.state for slot in loop.population.slots()] == ["finished", "free"]


def test_a_slot_that_was_claimed_ahead_and_lost_is_worked_on_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(population_size=2, n_generations=1, n_offspring=2)
    population = MemoryPopulation(
        settings.configure(seed=0, cohort_size=1, maximize=False).to_json()
    )
    loop = make_loop(population=population, settings=settings)
    loop.claims_ahead = True
    loop.act(begin(loop))
    key = population.slots()[1].key
    population._slots[key].lease_until = 0.0
    thief = loop.population.claim(key, worker="thief", lease_seconds=60)
    assert thief is not None
    with caplog.at_level(logging.WARNING):
        loop.act(loop.decide())
    assert "ran out before its work was done" in caplog.text
    assert loop.population.finish(thief, trained([loop.population.individuals()[1]]))
    while loop.act(loop.decide()):
        pass
    assert loop.population.individuals()[1].worker == "thief"


def test_a_slot_that_was_claimed_ahead_long_ago_is_not_trained_if_it_is_lost() -> None:
    numbers: list[int] = []

    def train(individuals: Sequence[Individual]) -> list[Outcome]:
        numbers.extend(one.reference.number for one in individuals)
        return trained(individuals)

    settings = Settings(population_size=3, n_generations=1, n_offspring=3, lease_seconds=0.3)
    loop = make_loop(train, settings=settings)
    loop.claims_ahead = True
    loop.act(begin(loop))
    time.sleep(0.4)  # as showing trials may take
    thief = loop.population.claim(loop.population.slots()[1].key, worker="t", lease_seconds=60)
    assert thief is not None
    loop.act(loop.decide())
    assert numbers == [0, 2]


def test_an_interruption_after_the_end_of_a_slot_gives_back_what_was_claimed_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def interrupted(*_: object) -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    loop = make_loop()
    loop.claims_ahead = True
    action = begin(loop)
    monkeypatch.setattr("optuna_esgd.trainer.loop.keep_lease", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.act(action)
    assert [slot.state for slot in loop.population.slots()] == ["finished", "claimed"]
    loop.give_back()
    assert [slot.state for slot in loop.population.slots()] == ["finished", "free"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("n_bytes", "expected"), [(0, 11), (1000, 2), (2**22, 6), (2**26, 11)])
def test_garbage_is_collected_in_every_generation_only_if_it_is_much(
    n_bytes: int, expected: int, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asynchronously too, where cohorts take turns."""
    monkeypatch.setattr("optuna_esgd.trainer.loop._n_bytes", lambda outcome: n_bytes)
    settings = Settings(
        population_size=4, n_offspring=4, n_generations=12, asynchronous=asynchronous
    )
    loop = make_loop(settings=settings)
    collections: list[int] = []
    monkeypatch.setattr(loop.population, "collect_garbage", lambda: collections.append(1))
    while loop.act(loop.decide()):
        pass
    assert len(collections) == expected, "the last generation is always cleared up behind"


@pytest.mark.parametrize(
    ("counts_first_failures", "is_anybody_trained", "n_failures"),
    [(True, False, 1), (False, False, 0), (False, True, 1)],
)
def test_failures_before_anybody_is_trained_count_where_they_do_not_end_the_worker(
    counts_first_failures: bool, is_anybody_trained: bool, n_failures: int
) -> None:
    def fail(individuals: Sequence[Individual]) -> list[Outcome]:
        raise ValueError("out of cheese")

    loop = make_loop(fail)
    loop.counts_first_failures = counts_first_failures
    action = begin(loop)
    if is_anybody_trained:  # by somebody else, after this worker has read the facts
        other = make_loop(population=loop.population)
        other.decide()
        assert other.act(Train(action.slots[1:]))
    assert loop.is_anybody_trained() == is_anybody_trained
    with pytest.raises(ValueError, match="cheese"):
        loop.act(action)
    slot = loop.population.slots()[0]
    assert (slot.state, slot.n_failures) == ("free", n_failures)
