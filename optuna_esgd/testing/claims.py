"""Contract: a slot is one worker's at a time, and who has lost it cannot write."""

from __future__ import annotations

import time

from optuna_esgd.engine.individual import Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import (
    LEASE_SECONDS,
    example_plan,
    outcome,
    take,
    weights_of,
)

_FIRST = SlotKey(0, 0, 0)


class ClaimContract(Contract):
    """Claims, leases, fencing, failures."""

    def test_claimed_slot_is_taken(self, population: Population) -> None:
        """Nobody else gets it, and the facts show it."""
        population.commit_plan(example_plan(0))
        claim = population.claim(_FIRST, worker="Ada", lease_seconds=LEASE_SECONDS)
        assert claim is not None
        assert (claim.worker, claim.attempt, claim.slot.attempt) == ("Ada", 1, 1)
        assert (claim.slot.key, claim.slot.numbers) == (_FIRST, (0, 1))
        assert claim.slot.state == "claimed"
        assert population.claim(_FIRST, worker="Bob", lease_seconds=LEASE_SECONDS) is None
        shown = population.slots()[0]
        assert (shown.state, shown.is_claimable, shown.attempt) == ("claimed", False, 1)

    def test_unknown_slot_cannot_be_claimed(self, population: Population) -> None:
        """It is not an error: another worker's facts may be newer."""
        assert population.claim(_FIRST, worker="Ada", lease_seconds=LEASE_SECONDS) is None
        assert population.slot_failure(_FIRST) == ""

    def test_every_slot_is_claimed_once(self, population: Population) -> None:
        """However many workers race for it."""
        population.commit_plan(example_plan(0, n_individuals=6, cohort_size=1))
        keys = [slot.key for slot in population.slots()]

        def claim_all(number: int) -> list[SlotKey]:
            turned = keys[number:] + keys[:number]
            claims = [
                population.claim(key, worker=f"worker {number}", lease_seconds=LEASE_SECONDS)
                for key in turned
            ]
            return [claim.slot.key for claim in claims if claim is not None]

        claimed = [key for mine in self.race(claim_all) for key in mine]
        assert sorted(claimed) == keys

    def test_one_of_several_slots_is_claimed(self, population: Population) -> None:
        """The first that is claimable, however many workers ask for any of them."""
        population.commit_plan(example_plan(0, n_individuals=6, cohort_size=1))
        keys = [slot.key for slot in population.slots()]
        take(population, keys[0])

        def claim_any(_number: int) -> list[SlotKey]:
            claimed: list[SlotKey] = []
            while True:
                claim = population.claim_one_of(
                    keys[:4], worker="worker", lease_seconds=LEASE_SECONDS
                )
                if claim is None:
                    return claimed
                assert (claim.attempt, claim.slot.state) == (1, "claimed")
                claimed.append(claim.slot.key)

        racers = self.race(claim_any)
        assert sorted(key for mine in racers for key in mine) == keys[1:4]
        assert all(mine == sorted(mine) for mine in racers)

    def test_one_of_very_many_slots_is_claimed(self, population: Population) -> None:
        """However many of the first are taken."""
        population.commit_plan(example_plan(0, n_individuals=70, cohort_size=1))
        keys = [slot.key for slot in population.slots()]
        for number in range(70):
            if number != 66:
                take(population, keys[number])
        claim = population.claim_one_of(keys[::-1], worker="worker", lease_seconds=LEASE_SECONDS)
        assert claim is not None
        assert claim.slot.key == keys[66]
        assert claim.slot.numbers == (66,)
        assert not population.claim_one_of(keys, worker="other", lease_seconds=LEASE_SECONDS)

    def test_released_slot_is_free(self, population: Population) -> None:
        """Without a failure nothing is counted but the attempt."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        assert population.release(claim)
        assert not population.release(claim)
        shown = population.slots()[0]
        assert (shown.state, shown.is_claimable, shown.n_failures) == ("free", True, 0)
        assert take(population, _FIRST).attempt == 2

    def test_failures_are_counted_and_remembered(self, population: Population) -> None:
        """The latest traceback can be read, however long it is."""
        population.commit_plan(example_plan(0))
        assert population.slot_failure(_FIRST) == ""
        long = "Traceback 🦎\n" * 10_000
        for failure in ("the first", long):
            assert population.release(take(population, _FIRST), failure=failure)
        assert population.slots()[0].n_failures == 2
        assert population.slot_failure(_FIRST) == long
        assert take(population, _FIRST).slot.n_failures == 2

    def test_failures_of_any_text_are_remembered(self, population: Population) -> None:
        """Tracebacks quote whatever was in the data; what cannot be stored is replaced."""
        population.commit_plan(example_plan(0))
        claim = population.claim(_FIRST, worker="\0 and \udc80" * 99, lease_seconds=LEASE_SECONDS)
        assert claim is not None
        assert population.release(claim, failure="before \0 between \udc80 after")
        found = population.slot_failure(_FIRST)
        assert found.startswith("before ")
        assert found.endswith(" after")

    def test_expired_lease_frees_the_slot(self, population: Population) -> None:
        """The next worker gets another attempt, the first one is fenced off."""
        population.commit_plan(example_plan(0))
        lost = take(population, _FIRST, lease_seconds=self.short_lease_seconds)
        time.sleep(2 * self.short_lease_seconds)
        shown = population.slots()[0]
        assert (shown.state, shown.is_claimable) == ("claimed", True)
        current = take(population, _FIRST)
        assert current.attempt == lost.attempt + 1
        assert not population.renew(lost, lease_seconds=LEASE_SECONDS)
        assert not population.release(lost, failure="too late")
        assert not population.finish(lost, [outcome(0), outcome(1)])
        assert population.renew(current, lease_seconds=LEASE_SECONDS)
        assert population.slot_failure(_FIRST) == ""

    def test_renewed_lease_lives_on(self, population: Population) -> None:
        """Counted from the renewal."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST, lease_seconds=self.short_lease_seconds)
        for _ in range(2):
            assert population.renew(claim, lease_seconds=LEASE_SECONDS)
        time.sleep(2 * self.short_lease_seconds)
        assert not population.slots()[0].is_claimable

    def test_expired_lease_is_no_loss_until_somebody_comes(self, population: Population) -> None:
        """Work that is done late, but not twice, counts."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST, lease_seconds=self.short_lease_seconds)
        time.sleep(2 * self.short_lease_seconds)
        assert population.renew(claim, lease_seconds=self.short_lease_seconds)
        time.sleep(2 * self.short_lease_seconds)
        assert population.finish(claim, [outcome(0), outcome(1)])

    def test_lost_claim_writes_nothing(self, population: Population) -> None:
        """No weights, no fitness, no trace."""
        population.commit_plan(example_plan(0))
        lost = take(population, _FIRST)
        population.release(lost)
        current = take(population, _FIRST)
        late = [
            outcome(number, 0.5, weights=weights_of(population, Reference(0, 0, number)))
            for number in (0, 1)
        ]
        assert not population.finish(lost, late)
        assert population.stored_bytes() == 0
        assert all(one.fitness is None for one in population.individuals())
        assert population.slots()[0].state == "claimed"
        assert population.finish(current, [outcome(0, 7.0), outcome(1, 7.0)])
        assert not population.finish(lost, late)
        assert [one.fitness for one in population.individuals()][:2] == [7.0, 7.0]
        assert not population.individuals()[0].is_stored

    def test_finished_slot_stays_finished(self, population: Population) -> None:
        """Finishing again with the same claim is true, and changes nothing."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST, lease_seconds=self.short_lease_seconds)
        assert population.finish(claim, [outcome(0, 1.0), outcome(1, 2.0)])
        assert population.finish(claim, [outcome(0, 3.0), outcome(1, 4.0)])
        time.sleep(2 * self.short_lease_seconds)
        assert population.claim(_FIRST, worker="Bob", lease_seconds=LEASE_SECONDS) is None
        assert not population.renew(claim, lease_seconds=LEASE_SECONDS)
        assert not population.release(claim)
        shown = population.slots()[0]
        assert (shown.state, shown.is_claimable) == ("finished", False)
        assert [one.fitness for one in population.individuals()][:2] == [1.0, 2.0]

    def test_finishing_and_going_on_is_one(self, population: Population) -> None:
        """The slot is finished, the next plan stored and a slot taken by the same worker."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        onward = population.finish_and_go_on(
            claim,
            [outcome(0), outcome(1)],
            plan=None,
            keys=[SlotKey(0, 0, 1)],
            lease_seconds=LEASE_SECONDS,
        )
        assert (onward.is_finished, onward.is_planned) == (True, False)
        assert onward.claim is not None
        assert (onward.claim.slot.key, onward.claim.attempt) == (SlotKey(0, 0, 1), 1)
        assert onward.claim.worker == claim.worker
        plan = example_plan(0, round_=1)
        onward = population.finish_and_go_on(
            onward.claim,
            [outcome(2), outcome(3)],
            plan=plan,
            keys=plan.slot_keys,
            lease_seconds=LEASE_SECONDS,
        )
        assert onward.is_planned
        assert onward.claim is not None
        facts = population.facts()
        assert (facts.generation, facts.round) == (0, 1)
        assert [slot.state for slot in facts.slots] == ["claimed", "free"]
        assert population.finish(onward.claim, [outcome(0), outcome(1)])

    def test_going_on_without_anything_left(self, population: Population) -> None:
        """Others have the plan and the slot; what was done counts all the same."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        take(population, SlotKey(0, 0, 1))
        onward = population.finish_and_go_on(
            claim,
            [outcome(0), outcome(1)],
            plan=example_plan(0),
            keys=[SlotKey(0, 0, 1)],
            lease_seconds=LEASE_SECONDS,
        )
        assert (onward.is_finished, onward.is_planned, onward.claim) == (True, False, None)

    def test_lost_claim_does_not_go_on(self, population: Population) -> None:
        """Neither a plan nor a claim comes of it."""
        population.commit_plan(example_plan(0))
        lost = take(population, _FIRST)
        population.release(lost)
        take(population, _FIRST)
        onward = population.finish_and_go_on(
            lost,
            [outcome(0), outcome(1)],
            plan=example_plan(0, round_=1),
            keys=[SlotKey(0, 0, 1)],
            lease_seconds=LEASE_SECONDS,
        )
        assert (onward.is_finished, onward.is_planned, onward.claim) == (False, False, None)
        assert {slot.key for slot in population.slots()} == {_FIRST, SlotKey(0, 0, 1)}
        assert population.slots()[1].attempt == 0

    def test_one_of_many_attempts_is_written(self, population: Population) -> None:
        """Workers with claims on the same slot finish at once; only the last attempt counts."""
        population.commit_plan(example_plan(0))
        claims = []
        for _ in range(self.n_threads):
            claims.append(take(population, _FIRST))
            if len(claims) < self.n_threads:
                population.release(claims[-1])

        def finish(number: int) -> bool:
            ended = [
                outcome(n, float(number), weights=weights_of(population, Reference(n, 0, number)))
                for n in (0, 1)
            ]
            return population.finish(claims[number], ended)

        assert self.race(finish) == [False] * (self.n_threads - 1) + [True]
        assert population.individuals()[0].fitness == self.n_threads - 1
