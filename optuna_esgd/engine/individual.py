"""The engine's nouns: individuals, slots, plans, facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from optuna_esgd.evolution.space import Value

Birth = Literal["founder", "elite", "survivor", "recombination"]
SlotState = Literal["free", "claimed", "finished"]


class Reference(NamedTuple):
    """Who: individual ``number`` of ``generation``.

    Round 0 holds the individuals that train (one trial each); round v >= 1 holds the offspring
    bred in the v-th evolution round at the end of the generation.
    """

    generation: int
    round: int
    number: int

    def __str__(self) -> str:
        """Short form for messages, e.g. ``3.0.7``."""
        return f"{self.generation}.{self.round}.{self.number}"


@dataclass(frozen=True, kw_only=True)
class Individual:
    """One set of weights with the species that trains it, as planned and as it ended.

    Attributes:
        reference: Who it is.
        birth: What it starts from: new weights (founder), a survivor's (elite, survivor), or a
            recombination.
        origin: Whose weights it starts from; None for founders and for offspring themselves.
        parents: The survivor itself, or the ρ parents of the recombination; empty for founders.
        mutation_scale: σ_k where ``birth`` is a recombination bred in this round, else 0.
        species: Name of the species; "" where the objective chooses (define by run) and for
            offspring, which do not train.
        hyperparameters: Values the species trains with; empty where not yet known.
        inherits_optimizer_state: Whether training starts with the first parent's optimizer state.
        birth_fitness: Fitness at birth, lower is better; None for founders until they are scored.
        fitness: Fitness at the end, lower is better, inf = diverged; None until finished.
        weights: Digest of the final weights; kept when the weights themselves are collected.
        is_stored: Whether the weights can still be read.
        trial_number: The Optuna trial that shows it, once there is one.
        n_back_offs: How often training returned to an earlier point.
        n_epochs: Epochs trained.
        n_gradients: Gradient evaluations spent, each on one mini-batch.
        n_forwards: Evaluations of the loss alone, each on one mini-batch.
        n_evaluations: Fitness evaluations spent.
        worker: Who worked on it.
    """

    reference: Reference
    birth: Birth
    origin: Reference | None = None
    parents: tuple[Reference, ...] = ()
    mutation_scale: float = 0.0
    species: str = ""
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    inherits_optimizer_state: bool = False
    birth_fitness: float | None = None
    fitness: float | None = None
    weights: str | None = None
    is_stored: bool = False
    trial_number: int | None = None
    n_back_offs: int = 0
    n_epochs: int = 0
    n_gradients: int = 0
    n_forwards: int = 0
    n_evaluations: int = 0
    worker: str = ""

    @property
    def fitness_or_inf(self) -> float:
        """Fitness for comparisons: who has not finished ranks with the diverged."""
        return math.inf if self.fitness is None else self.fitness

    @property
    def first_parent(self) -> Reference | None:
        """The birth parent, from whom species and hyperparameters are inherited."""
        return self.parents[0] if self.parents else None


class SlotKey(NamedTuple):
    """The unit of work a worker claims: one cohort of one round."""

    generation: int
    round: int
    cohort: int


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A slot as the database shows it now.

    Attributes:
        key: Which slot.
        numbers: The individuals in it.
        state: free, claimed or finished.
        is_claimable: Free, or claimed with a lease that has run out by the database's clock.
        attempt: How often it was claimed; fences off earlier claims.
        n_failures: How often user code raised in it.
    """

    key: SlotKey
    numbers: tuple[int, ...]
    state: SlotState
    is_claimable: bool
    attempt: int = 0
    n_failures: int = 0

    @property
    def references(self) -> tuple[Reference, ...]:
        """The individuals in it, by their names."""
        generation, round_, _ = self.key
        return tuple(Reference(generation, round_, number) for number in self.numbers)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claimed slot; what is written with it is refused once another attempt has begun."""

    slot: Slot
    attempt: int
    worker: str


@dataclass(frozen=True, kw_only=True)
class Onward:
    """What became of finishing a slot and going on in the same breath.

    Attributes:
        is_finished: Whether the slot was still the caller's; if not, nothing was written.
        is_planned: Whether the plan was stored.
        claim: The next slot, if there was one to be had.
    """

    is_finished: bool
    is_planned: bool = False
    claim: Claim | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One round, or one cohort of it, laid out: who is in it, and in which slots.

    Attributes:
        generation: Which generation, from 0.
        round: 0 for the SGD step, v >= 1 for the v-th evolution round.
        individuals: Everyone who is planned, by number.
        cohorts: Numbers of the individuals in each slot.
        certificate: For round 0 of generation k >= 1, the mean fitness of the r best of the
            survivors of generation k - 1, r = 1 .. m (Cui et al. 2018, Theorem 1). The first
            plan of a round brings it; asynchronously it is of those who were alive then, and
            empty as long as a founder was not finished.
        first_cohort: Which cohort ``cohorts`` begins with; 0 where the whole round is planned.
    """

    generation: int
    round: int
    individuals: tuple[Individual, ...]
    cohorts: tuple[tuple[int, ...], ...]
    certificate: tuple[float, ...] = ()
    first_cohort: int = 0

    @property
    def slot_keys(self) -> tuple[SlotKey, ...]:
        """The slots it lays out, in the order of ``cohorts``."""
        n_before = self.first_cohort
        return tuple(
            SlotKey(self.generation, self.round, n_before + at) for at in range(len(self.cohorts))
        )

    @property
    def trained_parents(self) -> set[Reference]:
        """Whose stored weights somebody in it starts from, or is bred from."""
        return {parent for one in self.individuals for parent in one.parents if parent.round == 0}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is committed: the latest generation, all of its rounds so far, and the open slots.

    Asynchronously every place of the population is in a generation of its own; see
    ``engine.places``.

    Attributes:
        generation: The latest planned generation; -1 before the first plan.
        round: Its latest planned round.
        individuals: Everyone in that generation, all rounds, ordered by (round, number).
            Asynchronously everyone that some place still needs, ordered by reference.
        slots: The slots of the latest round, by cohort. Asynchronously the latest slot of each
            cohort.
    """

    generation: int = -1
    round: int = 0
    individuals: tuple[Individual, ...] = ()
    slots: tuple[Slot, ...] = ()

    @property
    def n_generations_begun(self) -> int:
        """How many generations somebody has begun to train; the plan alone begins none."""
        return max(
            (slot.key.generation + bool(slot.attempt or slot.key.round) for slot in self.slots),
            default=0,
        )

    @property
    def is_anybody_trained(self) -> bool:
        """Whether somebody has finished an SGD step."""
        return self.generation > 0 or any(one.fitness is not None for one in self.in_round(0))

    def in_round(self, round_: int) -> tuple[Individual, ...]:
        """The individuals of one round, by number."""
        return tuple(one for one in self.individuals if one.reference.round == round_)

    def unchanged(self, slots: Iterable[Slot]) -> dict[Reference, Individual]:
        """Who is the same in later facts: the finished, and those in slots that are still open.

        Args:
            slots: As they are later.
        """
        still_open = {one for slot in slots if slot.state != "finished" for one in slot.references}
        return {
            one.reference: one
            for one in self.individuals
            if one.fitness is not None or one.reference in still_open
        }


NO_FACTS = Facts()


class Span(NamedTuple):
    """When a slot was worked on.

    Attributes:
        key: Which slot.
        numbers: The individuals in it.
        worker: Who has, or had, the last claim.
        claimed_at: Seconds by the store's clock: only differences mean anything.
        finished_at: Likewise; None while the slot is being worked on.
        lease_until: Until when the worker is known to be alive; None if it has finished.
    """

    key: SlotKey
    numbers: tuple[int, ...]
    worker: str
    claimed_at: float
    finished_at: float | None
    lease_until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chronicle:
    """What became of everybody so far: what figures are drawn from.

    Attributes:
        individuals: Everyone who trains (round 0), and those offspring that others may descend
            from before they train (all rounds but the last of a generation) or whose weights are
            stored; ordered by (generation, round, number). Rejected offspring of the last round
            are most of a population and leave no trace in it.
        spans: Slots that are claimed or finished, ordered by key.
        read_at: Now, by the clock of the spans.
    """

    individuals: tuple[Individual, ...] = ()
    spans: tuple[Span, ...] = ()
    read_at: float = 0.0
