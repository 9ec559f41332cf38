"""A population in memory, a random landscape for a task, and workers that meet in random order.

The real store is a database and the real task a network; the algorithm must not notice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.individual import (
    NO_FACTS,
    Claim,
    Facts,
    Individual,
    Plan,
    Reference,
    Slot,
    SlotKey,
)
from optuna_esgd.engine.places import current_holders, facts_by_place
from optuna_esgd.engine.ports import Explore
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.evolution.back_off import BackOffRule
from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Space

SPACES: Mapping[str, Space] = {
    "sgd": {
        "lr": FloatRange(1e-4, 1.0, "log"),
        "momentum": FloatRange(0.0, 0.999, "one_minus"),
        "nesterov": Choices((True, False)),
    },
    "adam": {
        "lr": FloatRange(1e-5, 1e-1, "log"),
        "batch_size": IntRange(16, 256, "log"),
        "schedule": Choices((None, "cosine")),
    },
}


@dataclass
class FakePopulation:
    """What a store does, without one: unique plans, fenced claims, results written once.

    Attributes:
        is_asynchronous: Whether each cohort is in a generation of its own.
        plans: What was planned first of each round.
        events: Finished slots in their order, each with who holds the places afterwards.
        known: Facts that somebody has read earlier.
    """

    is_asynchronous: bool = False
    plans: dict[tuple[int, int], Plan] = field(default_factory=dict)
    individuals: dict[Reference, Individual] = field(default_factory=dict)
    slots: dict[SlotKey, Slot] = field(default_factory=dict)
    events: list[tuple[SlotKey, list[Individual]]] = field(default_factory=list)
    known: Facts = field(default_factory=Facts)

    def facts(self, before: Facts = NO_FACTS) -> Facts:
        del before
        if not self.plans:
            return Facts()
        if self.is_asynchronous:
            latest = {key.cohort: key.generation for key in sorted(self.slots) if not key.round}
            slots = [
                slot for key, slot in self.slots.items() if latest[key.cohort] == key.generation
            ]

            def find(references: Collection[Reference]) -> list[Individual]:
                return [self.individuals[one] for one in references]

            facts = facts_by_place(slots, find)
            assert facts_by_place(slots, find, before=self.known) == facts
            if len(self.events) % 3 == 0:  # now and then: what is known may be older
                self.known = facts
            return facts
        generation, round_ = max(self.plans)
        return Facts(
            generation=generation,
            round=round_,
            individuals=tuple(
                self.individuals[reference]
                for reference in sorted(self.individuals)
                if reference.generation == generation
            ),
            slots=tuple(
                self.slots[key] for key in sorted(self.slots) if key[:2] == (generation, round_)
            ),
        )

    def commit_plan(self, plan: Plan) -> bool:
        """Store a plan; whoever comes second must have planned the very same, or later facts."""
        key = (plan.generation, plan.round)
        if not self.slots.keys().isdisjoint(plan.slot_keys):
            assert self.is_asynchronous or self.plans[key] == plan, "two planned differently"
            return False
        self.plans.setdefault(key, plan)
        self.individuals |= {one.reference: one for one in plan.individuals}
        for slot, numbers in zip(plan.slot_keys, plan.cohorts, strict=True):
            self.slots[slot] = Slot(key=slot, numbers=numbers, state="free", is_claimable=True)
        return True

    def claim(self, key: SlotKey, worker: str) -> Claim | None:
        slot = self.slots[key]
        if not slot.is_claimable:
            return None
        slot = replace(slot, state="claimed", is_claimable=False, attempt=slot.attempt + 1)
        self.slots[key] = slot
        return Claim(slot=slot, attempt=slot.attempt, worker=worker)

    def expire(self, claim: Claim) -> None:
        """Let the lease run out, as it does when a worker dies."""
        slot = self.slots[claim.slot.key]
        if slot.state == "claimed" and slot.attempt == claim.attempt:
            self.slots[slot.key] = replace(slot, is_claimable=True)

    def finish(self, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
        slot = self.slots[claim.slot.key]
        if slot.state != "claimed" or slot.attempt != claim.attempt:
            return False
        assert sorted(outcome.number for outcome in outcomes) == sorted(slot.numbers)
        for outcome in outcomes:
            reference = Reference(slot.key.generation, slot.key.round, outcome.number)
            one = self.individuals[reference]
            self.individuals[reference] = replace(
                one,
                fitness=outcome.fitness,
                birth_fitness=(
                    one.birth_fitness if outcome.birth_fitness is None else outcome.birth_fitness
                ),
                n_back_offs=outcome.n_back_offs,
                n_epochs=outcome.n_epochs,
            )
        self.slots[slot.key] = replace(slot, state="finished", is_claimable=False)
        self.events.append((slot.key, current_holders(self.facts())))
        return True

    def generation(self, generation: int, *, round_: int = 0) -> list[Individual]:
        """Everyone in one round, by number."""
        return [
            one
            for reference, one in sorted(self.individuals.items())
            if reference[:2] == (generation, round_)
        ]


@dataclass(frozen=True)
class Landscape:
    """A fitness as rough as it gets, but deterministic: every point has one, whoever asks.

    Attributes:
        seed: Which landscape.
        oddity: Share of points that are NaN, infinite of either sign, or close to overflow.
    """

    seed: int
    oddity: float = 0.0

    def fitness(self, *point: int | str) -> float:
        rng = stream(self.seed, "landscape", *point)
        if rng.random() < self.oddity:
            return float(rng.choice([math.nan, math.inf, -math.inf, 1.7e308, -1.7e308]))
        if rng.random() < 0.3:
            return float(rng.integers(-2, 3))  # ties
        return float(rng.normal(scale=10.0 ** rng.integers(-3, 4)))

    def train(self, one: Individual, configuration: Configuration) -> Outcome:
        """Walk K_s random steps with back-off, holding a copy of the point to return to."""
        birth = one.birth_fitness
        if birth is None:
            birth = clean_fitness(self.fitness(*one.reference, "birth"))
        rule = BackOffRule(configuration.back_off, birth)
        current = held = birth
        for epoch in range(configuration.n_epochs):
            current = self.fitness(*one.reference, epoch)
            kept = rule.is_kept(current)
            if kept:
                held = current
            is_last_epoch = epoch == configuration.n_epochs - 1
            if rule.must_restore(kept=kept, is_last_epoch=is_last_epoch):
                current = held
        return Outcome(
            number=one.reference.number,
            fitness=clean_fitness(current),
            birth_fitness=birth if one.birth_fitness is None else None,
            n_back_offs=rule.n_back_offs,
            n_epochs=configuration.n_epochs,
        )

    def evaluate(self, one: Individual) -> Outcome:
        """Score an offspring."""
        fitness = clean_fitness(self.fitness(*one.reference, "offspring"))
        return Outcome(number=one.reference.number, fitness=fitness)


@dataclass
class Worker:
    """Decides, then acts one turn later on what may be out of date by then."""

    name: str
    act: Callable[[], object] | None = None
    claim: Claim | None = None
    is_done: bool = False


@dataclass
class Run:
    """One run of Algorithm 1, turn by turn.

    Attributes:
        configuration: The run's settings; ``n_generations`` must be a number.
        explore: Where hyperparameters come from.
        landscape: The task.
        n_workers: How many work at once.
        order: Shuffles turns and slots, and kills; None works everything off in order.
        deaths: Chance per turn that a worker dies with its claim; it wakes up again later.
        watch: Called with every decision and the facts it was made from.
    """

    configuration: Configuration
    explore: Explore
    landscape: Landscape
    n_workers: int = 1
    order: random.Random | None = None
    deaths: float = 0.0
    watch: Callable[[Facts, Action], None] = lambda facts, action: None
    population: FakePopulation = field(init=False)

    def __post_init__(self) -> None:
        self.population = FakePopulation(self.configuration.asynchronous)

    def go(self) -> FakePopulation:
        """Work until every worker was told to stop."""
        workers = [Worker(f"worker {number}") for number in range(self.n_workers)]
        for _ in range(20_000):
            at_work = [worker for worker in workers if not worker.is_done]
            if not at_work:
                return self.population
            self._turn(self.order.choice(at_work) if self.order else at_work[0])
        raise AssertionError("the run does not end")

    def _turn(self, worker: Worker) -> None:
        if self.order and worker.claim and self.order.random() < self.deaths:
            self.population.expire(worker.claim)
        elif worker.act is not None:
            worker.act()
            worker.act = worker.claim = None
        else:
            self._decide(worker)

    def _decide(self, worker: Worker) -> None:
        facts = self.population.facts()
        action = decide(facts, self.configuration, self.explore)
        self.watch(facts, action)
        match action:
            case Commit(plan):
                worker.act = lambda: self.population.commit_plan(plan)
            case Train(slots) | Evaluate(slots):
                slot = self.order.choice(slots) if self.order else slots[0]
                worker.claim = claim = self.population.claim(slot.key, worker.name)
                if claim is not None:
                    outcomes = [self._work(slot.key, number) for number in slot.numbers]
                    worker.act = lambda: self.population.finish(claim, outcomes)
            case Stop():
                worker.is_done = True
            case Wait():
                assert self.n_workers > 1, "nobody else has a claim to wait for"

    def work(self, action: Action) -> None:
        """Carry out one action at once."""
        match action:
            case Commit(plan):
                assert self.population.commit_plan(plan)
            case Train(slots) | Evaluate(slots):
                claim = self.population.claim(slots[0].key, "only")
                assert claim is not None
                outcomes = [self._work(claim.slot.key, number) for number in claim.slot.numbers]
                assert self.population.finish(claim, outcomes)

    def _work(self, key: SlotKey, number: int) -> Outcome:
        one = self.population.individuals[Reference(key.generation, key.round, number)]
        if key.round == 0:
            return self.landscape.train(one, self.configuration)
        return self.landscape.evaluate(one)
