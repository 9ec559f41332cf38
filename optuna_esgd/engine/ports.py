"""What the engine needs from the outside; the store and the faces implement it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from optuna_esgd.engine.actions import Action
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import (
    NO_FACTS,
    Chronicle,
    Claim,
    Facts,
    Individual,
    Onward,
    Plan,
    Reference,
    Slot,
    SlotKey,
)
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.evolution.space import Value


class Explore(Protocol):
    """Gives new individuals their species and hyperparameters."""

    def __call__(
        self, births: Sequence[Individual], parents: Mapping[Reference, Individual]
    ) -> list[tuple[str, Mapping[str, Value]]]:
        """Choose for all births of a plan at once.

        Args:
            births: The individuals to equip, in order, all of one generation.
            parents: Everyone they may descend from, by reference; offspring among them carry no
                species, their parents do.

        Returns:
            (species, hyperparameters) per birth; ("", {}) where the objective will choose.
        """
        ...


class Listener(Protocol):
    """Hears of changes that others make to a population."""

    def wait(self, seconds: float) -> None:
        """Return when something has changed since listening began, or after so long.

        May return early; where a store cannot tell, it takes the whole time.
        """
        ...


class Population(Protocol):
    """One study's population in a store: facts in one read, one transaction per method.

    Every implementation (in memory, SQLite, PostgreSQL, MySQL/MariaDB) passes the contract tests
    in ``optuna_esgd.testing``. Time is the store's own clock. Methods may raise StorageError
    where the store cannot be reached; expected outcomes are return values.
    """

    @property
    def uuid(self) -> str:
        """The population's own name, independent of Optuna's study id."""
        ...

    @property
    def configuration(self) -> Mapping[str, object]:
        """The configuration the population was made with, as stored."""
        ...

    def facts(self, before: Facts = NO_FACTS) -> Facts:
        """Read the latest generation and the slots of its latest round, in one snapshot.

        If ``configuration`` says asynchronous: every place's own, see ``engine.places``.

        Args:
            before: What this gave earlier. Who cannot have trained since may be taken from it,
                with the trial numbers of then.
        """
        ...

    def listening(self) -> AbstractContextManager[Listener]:
        """Hear of what lets others go on, from the beginning of the block on.

        That is: a plan, a slot that was given back, the last slot of a round that was finished.
        """
        ...

    def commit_plan(self, plan: Plan) -> bool:
        """Store a plan with its individuals and free slots.

        Returns:
            False, and nothing is stored, if one of the slots exists (another was first), or if
            the weights of a parent from round 0 were collected since the facts were read.
        """
        ...

    def claim(self, key: SlotKey, *, worker: str, lease_seconds: float) -> Claim | None:
        """Take a claimable slot, or None if somebody else has it or it is finished."""
        ...

    def claim_one_of(
        self, keys: Sequence[SlotKey], *, worker: str, lease_seconds: float
    ) -> Claim | None:
        """Take the first of these slots that is claimable, by key; None if there is none."""
        ...

    def renew(self, claim: Claim, *, lease_seconds: float) -> bool:
        """Prolong the lease; False if the claim is lost."""
        ...

    def release(self, claim: Claim, *, failure: str | None = None) -> bool:
        """Give the slot back; with ``failure`` (a traceback) it counts as a failed try.

        Returns:
            False if the claim was lost already; then nothing is written.
        """
        ...

    def finish(self, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
        """Store weights, fitness and the finished slot together, exactly once.

        Returns:
            False if the claim is lost; then nothing becomes visible.
        """
        ...

    def finish_and_go_on(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        plan: Plan | None,
        keys: Sequence[SlotKey],
        lease_seconds: float,
    ) -> Onward:
        """As ``finish``, ``commit_plan`` and ``claim_one_of``, all together or nothing.

        Args:
            claim: Whose slot is finished; if it is lost, nothing is written.
            outcomes: As for ``finish``.
            plan: What comes next, if that is known already.
            keys: Slots of which the same worker takes the first that is claimable, perhaps of the
                plan; none for no other claim.
            lease_seconds: Of the new claim.
        """
        ...

    def save_checkpoint(self, claim: Claim, state: Snapshot, *, lease_seconds: float) -> bool:
        """Keep how far the slot's work has come, until it is finished; renews the lease.

        Returns:
            False if the claim is lost; then nothing is written.
        """
        ...

    def read_checkpoint(self, key: SlotKey) -> Snapshot | None:
        """What was last saved of the slot's work; None if nothing was, or it is finished."""
        ...

    def slot_failure(self, key: SlotKey) -> str:
        """The traceback of the slot's last failure, "" if there was none."""
        ...

    def assign_trial(self, trial_number: int) -> Individual | None:
        """Give the first finished individual without a trial (round 0) this trial.

        Returns:
            The individual, by (generation, number); None if there is none to give. The same
            trial number always gets the same individual again.
        """
        ...

    def unassign_trials(self, trial_numbers: Collection[int]) -> int:
        """Let others show what these trials could not; how many individuals are free again."""
        ...

    def reserve_unshown(
        self, *, lease_seconds: float, most: int | None = None
    ) -> tuple[Individual, ...]:
        """Keep the finished individuals without a trial for the caller, who will bind them.

        Args:
            lease_seconds: For how long.
            most: How many at most; None for all.

        Returns:
            Those of round 0 that nobody else shows or has reserved, by (generation, number).
        """
        ...

    def renew_trials(self, trial_numbers: Sequence[int], *, lease_seconds: float) -> None:
        """Stand by running trials for this long: they are not lost."""
        ...

    def lost_trials(self, running: Collection[int], *, lease_seconds: float) -> tuple[int, ...]:
        """Which of these running trials nobody has stood by for a lease.

        A trial that is seen here for the first time has one lease to be heard of.
        """
        ...

    def bind_trial(self, reference: Reference, trial_number: int) -> bool:
        """Give one individual (finished or not) this trial; False if it has another one."""
        ...

    def read_weights(self, reference: Reference) -> Snapshot:
        """Read an individual's final weights.

        Raises:
            WeightsNotFoundError: Never stored, or collected.
            CorruptionError: The bytes do not match their digest; says which chunk.
        """
        ...

    def read_optimizer_state(self, reference: Reference) -> Snapshot | None:
        """Read an individual's optimizer state; None if it has none. Raises as read_weights."""
        ...

    def individuals(self, *, generation: int | None = None) -> tuple[Individual, ...]:
        """All individuals (of one generation), ordered by (generation, round, number)."""
        ...

    def individual_of_trial(self, trial_number: int) -> Individual | None:
        """The individual a trial shows."""
        ...

    def best(self) -> Individual | None:
        """The stored individual with the lowest fitness; the earliest among equals.

        Offspring are among them only if they beat everyone alive when they were scored: then
        their weights were stored.
        """
        ...

    def certificates(self) -> dict[int, tuple[float, ...]]:
        """Generation -> the certificate stored with its round-0 plan (where there is one)."""
        ...

    def slots(self, *, generation: int | None = None) -> tuple[Slot, ...]:
        """All slots (of one generation), ordered by key."""
        ...

    def chronicle(self) -> Chronicle:
        """Read what became of everybody, without weights, in one snapshot."""
        ...

    def finish_order(self) -> tuple[SlotKey, ...]:
        """The finished slots, in the order they finished by the store's clock; equals by key."""
        ...

    def pin(self, reference: Reference, *, pinned: bool = True) -> None:
        """Keep an individual's weights for good, or no longer."""
        ...

    def collect_garbage(self) -> int:
        """Delete what nothing needs any more; returns the payload bytes freed.

        Needed are the weights of the latest two generations, of the best individual so far, and
        of pinned ones; optimizer states of the latest two generations; artifacts. In place of
        the latest two generations: if asynchronous, everyone in the facts; and optimizer states
        are kept with the weights, since a plan that was made before may still build on both.
        """
        ...

    def stored_bytes(self) -> int:
        """Payload bytes now stored for this population, each chunk counted once."""
        ...

    def check_layout(self, layout: str) -> None:
        """Remember the model's layout the first time; refuse another one later.

        Args:
            layout: Canonical JSON of names, shapes and dtypes.

        Raises:
            ConfigurationError: Says which tensor differs.
        """
        ...


class GenerationLoop(Protocol):
    """What a sampler that holds slots needs of the trainer's work loop."""

    population: Population
    configuration: Configuration

    def decide(self) -> Action:
        """Read the facts and decide."""
        ...

    def act(self, action: Action) -> bool:
        """Carry out one action."""
        ...
