"""Three workers race for every plan and every claim, and a database goes as memory does.

Each worker looks, acts on what it saw however old that is, and writes when its turn comes; leases
run out and workers die in between. In the end the population is the one that a worker alone makes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Train
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import Claim, Individual, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.tables import slot
from optuna_esgd.store.transactions import write
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.examples import example_configuration
from optuna_esgd.testing.runs import outcomes_of, run
from tests.store.populations import make_population

CONFIGURATION = example_configuration(n_generations=2)
LEASE_SECONDS = 1000.0
_WORKERS = st.sampled_from(("Ada", "Bob", "Eve"))


@dataclass(frozen=True)
class View:
    """What a worker knows and is about to do."""

    action: Action | None = None
    claim: Claim | None = None


class Workers(RuleBasedStateMachine):
    """The same steps on a population in memory, whose clock stands still, and one in SQL."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sql = make_population(self.url, CONFIGURATION.to_json())
        self.memory = MemoryPopulation(
            CONFIGURATION.to_json(), uuid=self.sql.uuid, clock=lambda: self.now
        )
        self.views: dict[str, View] = {}
        self.winners: dict[SlotKey, str] = {}

    @rule(worker=_WORKERS)
    def look(self, worker: str) -> None:
        facts = self._both("facts")
        action = decide(facts, CONFIGURATION, explore_nothing)  # type: ignore[arg-type]
        held = self.views.get(worker, View()).claim
        self.views[worker] = View(action, held)

    @rule(worker=_WORKERS, choice=st.integers(0, 3))
    def act(self, worker: str, choice: int) -> None:
        view = self.views.get(worker, View())
        match view.action:
            case Commit(plan):
                self._both("commit_plan", plan)
            case Train(slots) | Evaluate(slots) if view.claim is None:
                key = slots[choice % len(slots)].key
                claim = self._both("claim", key, worker=worker, lease_seconds=LEASE_SECONDS)
                assert claim is None or isinstance(claim, Claim)
                self.views[worker] = View(claim=claim)

    @rule(worker=_WORKERS)
    def finish(self, worker: str) -> None:
        claim = self.views.get(worker, View()).claim
        if claim is None:
            return
        ended = outcomes_of(self.memory, CONFIGURATION, claim)
        if self._both("finish", claim, ended):
            assert self.winners.setdefault(claim.slot.key, worker) == worker
        else:
            assert self.winners.get(claim.slot.key) != worker
        self.views[worker] = View()

    @rule(worker=_WORKERS)
    def renew(self, worker: str) -> None:
        claim = self.views.get(worker, View()).claim
        if claim is not None:
            self._both("renew", claim, lease_seconds=LEASE_SECONDS)

    @rule(worker=_WORKERS)
    def die(self, worker: str) -> None:
        self.views[worker] = View()

    @rule()
    def let_leases_run_out(self) -> None:
        self.now += 2 * LEASE_SECONDS
        expired = sa.update(slot).where(slot.c.state == "claimed").values(lease_until=0)
        write(self.sql.database, lambda connection: connection.execute(expired).rowcount)

    @rule(trial=st.integers(0, 9))
    def show(self, trial: int) -> None:
        self._both("assign_trial", trial)

    @rule()
    def collect(self) -> None:
        for one in (self.memory, self.sql):
            one.collect_garbage()
        self._both("stored_bytes")

    def teardown(self) -> None:
        self.let_leases_run_out()
        alone = MemoryPopulation(CONFIGURATION.to_json(), uuid=self.sql.uuid)
        for population in (self.memory, self.sql, alone):
            run(population, CONFIGURATION)
        assert _bits(self.sql) == _bits(self.memory) == _bits(alone)
        assert verify(self.sql, CONFIGURATION) == []

    def _both(self, method: str, *arguments: object, **options: object) -> object:
        mine, other = (
            getattr(one, method)(*arguments, **options) for one in (self.memory, self.sql)
        )
        assert mine == other, method
        return mine


def _bits(population: Population) -> list[Individual]:
    return [
        replace(one, worker="", trial_number=None, is_stored=False)
        for one in population.individuals()
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_workers_race_in_a_database_as_in_memory(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workers, "url", database_url)
    profile = settings(
        max_examples=40 if database_url.startswith("sqlite") else 6,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Workers, settings=profile)
