"""Waiting ends when somebody has changed something."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from optuna_esgd.engine.individual import SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.changes import Sleeper
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.testing.examples import example_configuration, example_plan, outcome, take
from tests.databases import Databases, MakeDatabase
from tests.store.populations import make_population

CONFIGURATION = example_configuration().to_json()
LONG_SECONDS = 60.0


def finish_round(population: Population) -> None:
    for cohort, numbers in enumerate([(0, 1), (2, 3)]):
        claim = take(population, SlotKey(0, 0, cohort))
        assert population.finish(claim, [outcome(number) for number in numbers])


def finish_round_and_go_on(population: Population) -> None:
    """As workers do who cannot plan, because others might have to add to the round."""
    for cohort, numbers in enumerate([(0, 1), (2, 3)]):
        claim = take(population, SlotKey(0, 0, cohort))
        onward = population.finish_and_go_on(
            claim, [outcome(number) for number in numbers], plan=None, keys=[], lease_seconds=60.0
        )
        assert onward.is_finished


def plan_and_go_on(population: Population) -> None:
    """With others still at work in the round: only the plan is news."""
    claim = take(population, SlotKey(0, 0, 0))
    plan = example_plan(1)
    ended = [outcome(0), outcome(1)]
    onward = population.finish_and_go_on(claim, ended, plan=plan, keys=[], lease_seconds=60.0)
    assert onward.is_planned


CHANGES: dict[str, Callable[[Population], object]] = {
    "plan": lambda one: one.commit_plan(example_plan(1)),
    "last of a round": finish_round,
    "last of a round, going on": finish_round_and_go_on,
    "finished with a plan": plan_and_go_on,
    "release": lambda one: one.release(take(one, SlotKey(0, 0, 0))),
}


@pytest.mark.parametrize("kind", ["sqlite", "mysql"])
def test_others_sleep(make_database: MakeDatabase, kind: str) -> None:
    population = make_population(make_database(kind), CONFIGURATION)
    with population.listening() as listener:
        assert isinstance(listener, Sleeper)
        listener.wait(0.001)


@pytest.fixture(params=["memory", "psycopg", "psycopg2"])
def population(request: pytest.FixtureRequest, databases: Databases) -> Population:
    if request.param == "memory":
        return MemoryPopulation(CONFIGURATION)
    url = databases.reused("postgresql").replace("postgresql:", f"postgresql+{request.param}:")
    return make_population(url, CONFIGURATION)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_wakes_who_waits(population: Population, change: str) -> None:
    population.commit_plan(example_plan(0))
    begun = threading.Event()

    def wait() -> None:
        with population.listening() as listener:
            begun.set()
            listener.wait(LONG_SECONDS)

    waiting = threading.Thread(target=wait)
    waiting.start()
    begun.wait()
    CHANGES[change](population)
    waiting.join(LONG_SECONDS / 2)
    assert not waiting.is_alive()


def test_a_change_before_the_wait_is_heard(population: Population) -> None:
    population.commit_plan(example_plan(0))
    done = threading.Event()

    def wait() -> None:
        with population.listening() as listener:
            CHANGES["release"](population)
            listener.wait(LONG_SECONDS)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert done.wait(LONG_SECONDS / 2)


def test_nothing_happens_and_the_wait_ends(population: Population) -> None:
    population.commit_plan(example_plan(0))
    with population.listening() as listener:
        listener.wait(0.01)
        listener.wait(0.01)
