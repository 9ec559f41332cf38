"""A database does what memory does, step by step, whatever is done to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from optuna_esgd.engine.individual import NO_FACTS, Claim, Facts, Plan, Reference
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.errors import WeightsNotFoundError
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.testing.examples import example_part, example_plan, example_snapshot
from tests.store.populations import make_population

_FITNESS = st.floats(allow_nan=True, allow_infinity=True)
_TRIALS = st.integers(0, 6)
_OUTCOMES = st.lists(
    st.fixed_dictionaries(
        {
            "fitness": _FITNESS,
            "birth_fitness": st.none() | _FITNESS,
            "weights": st.none() | st.builds(example_snapshot, st.integers(0, 3)),
            "optimizer_state": st.none() | st.just(example_snapshot("state", 9)),
            "species": st.none() | st.just("lion"),
            "n_epochs": st.integers(0, 3),
        }
    ),
    min_size=2,
    max_size=2,
)


class TwoPopulations(RuleBasedStateMachine):
    """One in memory, one in a database, and the same done to both.

    Leases never run out here; a claim is lost by being released.
    """

    url = ""
    is_asynchronous = False

    def __init__(self) -> None:
        super().__init__()
        configuration = {"asynchronous": self.is_asynchronous}
        self.memory = MemoryPopulation(configuration)
        self.sql = make_population(self.url, configuration)
        self.claims: list[Claim] = []
        self.references: list[Reference] = []
        self.plans: list[tuple[int, int]] = []
        self.seen = NO_FACTS

    @initialize()
    def begin(self) -> None:
        self.commit_plan(True, 4, False)

    @rule(new_generation=st.booleans(), n_individuals=st.integers(1, 5), again=st.booleans())
    def commit_plan(self, new_generation: bool, n_individuals: int, again: bool) -> None:
        generation, round_ = max(self.plans, default=(-1, 0))
        if new_generation or generation < 0:
            generation, round_ = generation + 1, 0
        elif not again:
            round_ += 1
        plan: Plan = example_plan(generation, round_=round_, n_individuals=n_individuals)
        if self._both("commit_plan", plan):
            self.plans.append((generation, round_))
            self.references += [one.reference for one in plan.individuals]

    @rule(ahead=st.integers(0, 1), cohort=st.integers(0, 1), round_=st.integers(0, 2))
    def commit_part(self, ahead: int, cohort: int, round_: int) -> None:
        generation = max(self.plans)[0] + ahead
        plan = example_part(generation, cohort, round_=round_, certificate=(1.0 + cohort,))
        if self._both("commit_plan", plan):
            self.plans.append((generation, round_))
            self.references += [one.reference for one in plan.individuals]

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        keys = [slot.key for slot in self.memory.slots()]
        if keys:
            key = data.draw(st.sampled_from(keys))
            claim = self._both("claim", key, worker="w", lease_seconds=1000)
            if isinstance(claim, Claim):
                self.claims.append(claim)

    @rule(data=st.data(), failure=st.none() | st.text(max_size=5))
    def release(self, data: st.DataObject, failure: str | None) -> None:
        if self.claims:
            claim = data.draw(st.sampled_from(self.claims))
            self._both("release", claim, failure=failure)
            assert self._both("slot_failure", claim.slot.key) is not None

    @rule(data=st.data(), ended=_OUTCOMES)
    def finish(self, data: st.DataObject, ended: list[dict[str, Any]]) -> None:
        if self.claims:
            claim = data.draw(st.sampled_from(self.claims))
            self._both("finish", claim, _outcomes(claim, ended))

    @rule(ended=_OUTCOMES)
    def work(self, ended: list[dict[str, Any]]) -> None:
        """Claim and finish what is free: most of what happens in a run."""
        for slot in self.memory.facts().slots:
            if slot.is_claimable:
                claim = self._both("claim", slot.key, worker="w", lease_seconds=1000)
                assert isinstance(claim, Claim)
                self._both("finish", claim, _outcomes(claim, ended))

    @rule(number=_TRIALS)
    def assign_trial(self, number: int) -> None:
        self._both("assign_trial", number)

    @rule(data=st.data(), number=_TRIALS)
    def bind_trial(self, data: st.DataObject, number: int) -> None:
        if self.references:
            self._both("bind_trial", data.draw(st.sampled_from(self.references)), number)

    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        if self.references:
            self._both("pin", data.draw(st.sampled_from(self.references)), pinned=pinned)

    @rule()
    def collect_garbage(self) -> None:
        self.memory.collect_garbage()
        self.sql.collect_garbage()
        self._both("stored_bytes")

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        if self.references:
            reference = data.draw(st.sampled_from(self.references))
            bytes_ = [_bytes(one, reference) for one in (self.memory, self.sql)]
            assert bytes_[0] == bytes_[1]

    @rule()
    def look(self) -> None:
        """Facts are read now and then; whoever is taken from earlier ones is still the same."""
        self._both("facts")
        self.seen = self.sql.facts(self.seen)
        assert _without_trials(self.seen) == _without_trials(self.memory.facts())

    def teardown(self) -> None:
        self.look()
        for question in ("best", "individuals", "slots", "certificates", "stored_bytes"):
            self._both(question)
        assert sorted(self.memory.finish_order()) == sorted(self.sql.finish_order())

    def _both(self, method: str, *arguments: object, **options: object) -> object:
        mine, other = (
            getattr(one, method)(*arguments, **options) for one in (self.memory, self.sql)
        )
        assert mine == other, method
        return mine


def _without_trials(facts: Facts) -> Facts:
    """Trial numbers in facts may be those of an earlier look."""
    individuals = tuple(replace(one, trial_number=None) for one in facts.individuals)
    return replace(facts, individuals=individuals)


def _outcomes(claim: Claim, ended: list[dict[str, Any]]) -> list[Outcome]:
    return [
        Outcome(number=number, **values)
        for number, values in zip(claim.slot.numbers, ended, strict=False)
    ]


def _bytes(population: Population, reference: Reference) -> list[object]:
    try:
        found: list[object] = [bytes(population.read_weights(reference).payload)]
    except WeightsNotFoundError as error:
        found = [str(error)]
    state = population.read_optimizer_state(reference)
    return [*found, state and bytes(state.payload)]


@contextmanager
def _at(url: str, is_asynchronous: bool) -> Iterator[None]:
    TwoPopulations.url, TwoPopulations.is_asynchronous = url, is_asynchronous
    yield
    TwoPopulations.url, TwoPopulations.is_asynchronous = "", False


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["", "asynchronous"])
def test_database_does_what_memory_does(database_url: str, is_asynchronous: bool) -> None:
    n_examples = 60 if database_url.startswith("sqlite") else 12
    profile = settings(
        max_examples=n_examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with _at(database_url, is_asynchronous):
        run_state_machine_as_test(TwoPopulations, settings=profile)
