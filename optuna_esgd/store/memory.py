"""A population in memory, for studies that live in memory: same contract, no database."""

from __future__ import annotations

import math
import threading
import time
import uuid as uuids
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from optuna_esgd.engine.foresight import apply_outcome
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
    SlotState,
    Span,
)
from optuna_esgd.engine.places import facts_by_place
from optuna_esgd.engine.ports import Listener
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.store.chunks import Listing, check_chunk, check_listing, pack
from optuna_esgd.store.outcomes import (
    best_of,
    check_layout,
    check_outcomes,
    readable,
    weights_not_found,
)

_Owner = TypeVar("_Owner", Reference, SlotKey)


class MemoryPopulation:
    """Implements ``engine.ports.Population`` for the threads of one process.

    Weights are kept as chunks, as in a database: equal bytes once, every read checked.

    Args:
        configuration: What the population is made with.
        uuid: Its name; a fresh one where none is given.
        clock: Seconds, monotonic; leases run out by it.
    """

    def __init__(
        self,
        configuration: Mapping[str, object],
        *,
        uuid: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uuid = uuids.uuid4().hex if uuid is None else uuid
        self._configuration = dict(configuration)
        self._is_asynchronous = bool(configuration.get("asynchronous"))
        self._clock = clock
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._n_changes = 0
        self._layout: str | None = None
        self._plans: dict[tuple[int, int], Plan] = {}
        self._slots: dict[SlotKey, _HeldSlot] = {}
        self._finished: list[SlotKey] = []
        self._individuals: dict[Reference, Individual] = {}
        self._generations: dict[int, list[Reference]] = {}
        self._trials: dict[int, Reference] = {}
        self._without_trial: dict[Reference, float] = {}  # finished, round 0; reserved until
        self._trial_leases: dict[int, float] = {}
        self._pinned: set[Reference] = set()
        self._weights: dict[Reference, str] = {}
        self._optimizer_states: dict[Reference, str] = {}
        self._checkpoints: dict[SlotKey, str] = {}
        self._snapshots: dict[str, Listing] = {}
        self._chunks: dict[str, bytes] = {}

    @property
    def uuid(self) -> str:
        """The population's own name."""
        return self._uuid

    @property
    def configuration(self) -> Mapping[str, object]:
        """What the population was made with."""
        return dict(self._configuration)

    def facts(self, before: Facts = NO_FACTS) -> Facts:
        """Read the latest generation and the slots of its latest round."""
        del before  # nothing is faster than what is there
        with self._lock:
            if not self._plans:
                return Facts()
            if self._is_asynchronous:
                return facts_by_place(self._latest_slots(), self._find)
            generation, round_ = max(self._plans)
            slots = [one for one in self.slots(generation=generation) if one.key.round == round_]
            return Facts(
                generation=generation,
                round=round_,
                individuals=self.individuals(generation=generation),
                slots=tuple(slots),
            )

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Hear of every change from the beginning of the block on."""
        yield _MemoryListener(self)

    def commit_plan(self, plan: Plan) -> bool:
        """Store a plan; False if it comes too late."""
        key = (plan.generation, plan.round)
        with self._lock:
            if any(slot in self._slots for slot in plan.slot_keys):
                return False
            if any(self._was_collected(parent) for parent in plan.trained_parents):
                return False
            self._plans.setdefault(key, plan)
            self._individuals |= {one.reference: one for one in plan.individuals}
            members = self._generations.setdefault(plan.generation, [])
            members[:] = sorted([*members, *(one.reference for one in plan.individuals)])
            for slot, numbers in zip(plan.slot_keys, plan.cohorts, strict=True):
                self._slots[slot] = _HeldSlot(tuple(numbers))
            self._announce()
            return True

    def claim(self, key: SlotKey, *, worker: str, lease_seconds: float) -> Claim | None:
        """Take a claimable slot, or None."""
        with self._lock:
            held = self._slots.get(key)
            if held is None or not held.is_claimable(self._clock()):
                return None
            held.state, held.worker = "claimed", worker
            held.attempt += 1
            held.claimed_at = self._clock()
            held.lease_until = held.claimed_at + lease_seconds
            return Claim(slot=self._slot(key), attempt=held.attempt, worker=worker)

    def claim_one_of(
        self, keys: Sequence[SlotKey], *, worker: str, lease_seconds: float
    ) -> Claim | None:
        """Take the first of these slots that is claimable, or None."""
        with self._lock:
            claims = (
                self.claim(key, worker=worker, lease_seconds=lease_seconds) for key in sorted(keys)
            )
            return next((claim for claim in claims if claim is not None), None)

    def renew(self, claim: Claim, *, lease_seconds: float) -> bool:
        """Prolong the lease; False if the claim is lost."""
        with self._lock:
            held = self._held(claim)
            if held is not None:
                held.lease_until = self._clock() + lease_seconds
            return held is not None

    def release(self, claim: Claim, *, failure: str | None = None) -> bool:
        """Give the slot back; False if the claim is lost."""
        with self._lock:
            held = self._held(claim)
            if held is None:
                return False
            held.state, held.worker = "free", ""
            if failure is not None:
                held.n_failures += 1
                held.failure = readable(failure)
            self._announce()
            return True

    def finish(self, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
        """Store weights, fitness and the finished slot; False if the claim is lost."""
        check_outcomes(claim, outcomes)
        key = claim.slot.key
        with self._lock:
            held = self._held(claim)
            if held is None:
                slot = self._slots.get(key)
                return (
                    slot is not None and slot.state == "finished" and slot.attempt == claim.attempt
                )
            for outcome in outcomes:
                reference = Reference(key.generation, key.round, outcome.number)
                weights = self._keep(self._weights, reference, outcome.weights)
                self._keep(self._optimizer_states, reference, outcome.optimizer_state)
                one = self._individuals[reference]
                self._individuals[reference] = apply_outcome(
                    one, outcome, worker=claim.worker, weights=weights
                )
                if reference.round == 0 and one.trial_number is None:
                    self._without_trial[reference] = -math.inf
            held.state, held.finished_at = "finished", self._clock()
            self._checkpoints.pop(key, None)
            self._finished.append(key)
            self._announce()
            return True

    def finish_and_go_on(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        plan: Plan | None,
        keys: Sequence[SlotKey],
        lease_seconds: float,
    ) -> Onward:
        """Finish a slot, store what comes next, and take a slot, together."""
        with self._lock:
            if not self.finish(claim, outcomes):
                return Onward(is_finished=False)
            is_planned = plan is not None and self.commit_plan(plan)
            following = self.claim_one_of(keys, worker=claim.worker, lease_seconds=lease_seconds)
            return Onward(is_finished=True, is_planned=is_planned, claim=following)

    def save_checkpoint(self, claim: Claim, state: Snapshot, *, lease_seconds: float) -> bool:
        """Keep how far the slot's work has come; False if the claim is lost."""
        with self._lock:
            if not self.renew(claim, lease_seconds=lease_seconds):
                return False
            self._keep(self._checkpoints, claim.slot.key, state)
            return True

    def read_checkpoint(self, key: SlotKey) -> Snapshot | None:
        """What was last saved of the slot's work."""
        with self._lock:
            digest = self._checkpoints.get(key)
            return None if digest is None else self._read(digest, f"the checkpoint of {key}")

    def slot_failure(self, key: SlotKey) -> str:
        """The traceback of the slot's last failure, "" if there was none."""
        with self._lock:
            return self._slots[key].failure if key in self._slots else ""

    def assign_trial(self, trial_number: int) -> Individual | None:
        """Give the first finished individual without a trial this trial."""
        with self._lock:
            given = self.individual_of_trial(trial_number)
            if given is not None:
                return given
            unshown = self._unshown()
            return self._show(unshown[0], trial_number) if unshown else None

    def unassign_trials(self, trial_numbers: Collection[int]) -> int:
        """Let others show what these trials could not; how many individuals are free again."""
        with self._lock:
            freed = [self._trials.pop(n) for n in set(trial_numbers) if n in self._trials]
            for reference in freed:
                one = replace(self._individuals[reference], trial_number=None)
                self._individuals[reference] = one
                if one.fitness is not None and reference.round == 0:
                    self._without_trial[reference] = -math.inf
            return len(freed)

    def bind_trial(self, reference: Reference, trial_number: int) -> bool:
        """Give one individual this trial; False if it, or the trial, has another one."""
        with self._lock:
            shown = self.individual_of_trial(trial_number)
            if shown is not None:
                return shown.reference == reference
            one = self._individuals.get(reference)
            if one is None or one.trial_number is not None:
                return False
            self._show(reference, trial_number)
            return True

    def reserve_unshown(
        self, *, lease_seconds: float, most: int | None = None
    ) -> tuple[Individual, ...]:
        """Keep the finished individuals without a trial for the caller."""
        with self._lock:
            reserved = self._unshown()[:most]
            self._without_trial |= dict.fromkeys(reserved, self._clock() + lease_seconds)
            return tuple(self._individuals[reference] for reference in reserved)

    def renew_trials(self, trial_numbers: Sequence[int], *, lease_seconds: float) -> None:
        """Stand by running trials for this long."""
        with self._lock:
            self._trial_leases |= dict.fromkeys(trial_numbers, self._clock() + lease_seconds)

    def lost_trials(self, running: Collection[int], *, lease_seconds: float) -> tuple[int, ...]:
        """Which of these running trials nobody has stood by for a lease."""
        with self._lock:
            now = self._clock()
            leases = {n: self._trial_leases.get(n, now + lease_seconds) for n in sorted(running)}
            self._trial_leases = leases
            return tuple(number for number, until in leases.items() if until < now)

    def read_weights(self, reference: Reference) -> Snapshot:
        """Read an individual's final weights."""
        with self._lock:
            if reference not in self._weights:
                raise weights_not_found(reference, self._individuals.get(reference))
            return self._read(self._weights[reference], f"the weights of individual {reference}")

    def read_optimizer_state(self, reference: Reference) -> Snapshot | None:
        """Read an individual's optimizer state; None if it has none."""
        with self._lock:
            if reference not in self._optimizer_states:
                return None
            owner = f"the optimizer state of individual {reference}"
            return self._read(self._optimizer_states[reference], owner)

    def individuals(self, *, generation: int | None = None) -> tuple[Individual, ...]:
        """All individuals (of one generation), ordered by (generation, round, number)."""
        with self._lock:
            generations = sorted(self._generations) if generation is None else [generation]
            return tuple(
                self._individuals[reference]
                for wanted in generations
                for reference in self._generations.get(wanted, ())
            )

    def individual_of_trial(self, trial_number: int) -> Individual | None:
        """The individual a trial shows."""
        with self._lock:
            reference = self._trials.get(trial_number)
            return None if reference is None else self._individuals[reference]

    def best(self) -> Individual | None:
        """The stored individual with the lowest fitness; the earliest among equals."""
        return best_of(self.individuals())

    def certificates(self) -> dict[int, tuple[float, ...]]:
        """Generation -> the certificate stored with its round-0 plan."""
        with self._lock:
            return {
                generation: plan.certificate
                for (generation, round_), plan in sorted(self._plans.items())
                if round_ == 0 and plan.certificate
            }

    def slots(self, *, generation: int | None = None) -> tuple[Slot, ...]:
        """All slots (of one generation), ordered by key."""
        with self._lock:
            return tuple(
                self._slot(key)
                for key in sorted(self._slots)
                if generation is None or key.generation == generation
            )

    def chronicle(self) -> Chronicle:
        """Read what became of everybody, without weights, in one snapshot."""
        n_rounds = int(str(self._configuration.get("n_evolution_rounds", 1)))
        with self._lock:
            return Chronicle(
                individuals=tuple(
                    one
                    for one in self.individuals()
                    if one.reference.round < max(n_rounds, 1) or one.is_stored
                ),
                spans=tuple(
                    held.span(key)
                    for key, held in sorted(self._slots.items())
                    if held.state != "free"
                ),
                read_at=self._clock(),
            )

    def finish_order(self) -> tuple[SlotKey, ...]:
        """The finished slots, in the order they finished."""
        with self._lock:
            return tuple(self._finished)

    def pin(self, reference: Reference, *, pinned: bool = True) -> None:
        """Keep an individual's weights for good, or no longer."""
        with self._lock:
            if reference not in self._individuals:
                raise weights_not_found(reference, None)
            (self._pinned.add if pinned else self._pinned.discard)(reference)

    def collect_garbage(self) -> int:
        """Delete what nothing needs any more; returns the payload bytes freed."""
        with self._lock:
            before = self.stored_bytes()
            needed = self._needed()
            best = self.best()
            kept = self._pinned | ({best.reference} if best is not None else set())
            for reference in [*self._weights]:
                if reference not in needed and reference not in kept:
                    del self._weights[reference]
                    one = self._individuals[reference]
                    self._individuals[reference] = replace(one, is_stored=False)
            needed_states = needed | kept if self._is_asynchronous else needed
            for reference in [*self._optimizer_states]:
                if reference not in needed_states:
                    del self._optimizer_states[reference]
            self._drop_unreferenced()
            return before - self.stored_bytes()

    def stored_bytes(self) -> int:
        """Payload bytes now stored, each chunk counted once."""
        with self._lock:
            return sum(len(payload) for payload in self._chunks.values())

    def check_layout(self, layout: str) -> None:
        """Remember the model's layout the first time; refuse another one later."""
        with self._lock:
            if self._layout is None:
                self._layout = layout
            check_layout(self._layout, layout)

    def _announce(self) -> None:
        self._n_changes += 1
        self._changed.notify_all()

    def _needed(self) -> set[Reference]:
        """The latest two generations; asynchronously everyone in the facts."""
        if self._is_asynchronous:
            return {one.reference for one in self.facts().individuals}
        latest = max(self._plans, default=(0, 0))[0]
        return {
            reference
            for generation in (latest - 1, latest)
            for reference in self._generations.get(generation, ())
        }

    def _latest_slots(self) -> list[Slot]:
        """All slots of the latest generation of each cohort."""
        latest = {key.cohort: key.generation for key in sorted(self._slots) if key.round == 0}
        return [self._slot(key) for key in self._slots if latest.get(key.cohort) == key.generation]

    def _find(self, references: Iterable[Reference]) -> list[Individual]:
        return [self._individuals[one] for one in references if one in self._individuals]

    def _was_collected(self, reference: Reference) -> bool:
        one = self._individuals.get(reference)
        return one is not None and one.weights is not None and not one.is_stored

    def _slot(self, key: SlotKey) -> Slot:
        held = self._slots[key]
        return Slot(
            key=key,
            numbers=held.numbers,
            state=held.state,
            is_claimable=held.is_claimable(self._clock()),
            attempt=held.attempt,
            n_failures=held.n_failures,
        )

    def _held(self, claim: Claim) -> _HeldSlot | None:
        """The slot, if the claim still holds it."""
        held = self._slots.get(claim.slot.key)
        is_held = held is not None and held.state == "claimed" and held.attempt == claim.attempt
        return held if is_held else None

    def _show(self, reference: Reference, trial_number: int) -> Individual:
        one = replace(self._individuals[reference], trial_number=trial_number)
        self._individuals[reference] = one
        self._trials[trial_number] = reference
        self._without_trial.pop(reference, None)
        return one

    def _unshown(self) -> list[Reference]:
        now = self._clock()
        return sorted(one for one, until in self._without_trial.items() if until < now)

    def _keep(
        self, owners: dict[_Owner, str], owner: _Owner, snapshot: Snapshot | None
    ) -> str | None:
        """Store a snapshot, copied: the caller goes on writing into its own memory."""
        if snapshot is None:
            return None
        packed = pack(snapshot)
        digest = packed.listing.digest
        self._snapshots[digest] = packed.listing
        for chunk in packed.chunks:
            if chunk.digest not in self._chunks:
                self._chunks[chunk.digest] = bytes(chunk.payload)
        owners[owner] = digest
        return digest

    def _read(self, digest: str, owner: str) -> Snapshot:
        listing = self._snapshots[digest]
        check_listing(owner, listing)
        payload = bytearray()
        for position, link in enumerate(listing.links):
            payload += check_chunk(owner, position, link, self._chunks.get(link.chunk))
        return Snapshot(listing.manifest, payload)

    def _drop_unreferenced(self) -> None:
        needed = {
            *self._weights.values(),
            *self._optimizer_states.values(),
            *self._checkpoints.values(),
        }
        self._snapshots = {d: listing for d, listing in self._snapshots.items() if d in needed}
        linked = {link.chunk for one in self._snapshots.values() for link in one.links}
        self._chunks = {d: payload for d, payload in self._chunks.items() if d in linked}

    def __reduce__(self) -> Any:
        """Refuse to be copied into another process, where it would be another population."""
        raise TypeError(
            "A population in memory belongs to one process. Give the study a storage, for "
            "instance storage='sqlite:///esgd.db'."
        )


class _MemoryListener:
    """Waits for a change after the one that was the latest when it was made."""

    def __init__(self, population: MemoryPopulation) -> None:
        self._population = population
        self._n_heard = population._n_changes

    def wait(self, seconds: float) -> None:
        population = self._population
        with population._changed:
            population._changed.wait_for(
                lambda: population._n_changes > self._n_heard, timeout=seconds
            )
            self._n_heard = population._n_changes


@dataclass
class _HeldSlot:
    numbers: tuple[int, ...]
    state: SlotState = "free"
    attempt: int = 0
    n_failures: int = 0
    failure: str = ""
    worker: str = ""
    claimed_at: float = 0.0
    finished_at: float | None = None
    lease_until: float = 0.0

    def span(self, key: SlotKey) -> Span:
        return Span(
            key,
            self.numbers,
            self.worker,
            self.claimed_at,
            self.finished_at,
            None if self.state == "finished" else self.lease_until,
        )

    def is_claimable(self, now: float) -> bool:
        return self.state == "free" or (self.state == "claimed" and self.lease_until < now)
