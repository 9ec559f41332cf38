from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler, NSGAIISampler, PartialFixedSampler, RandomSampler
from optuna.samplers._lazy_random_state import LazyRandomState

from optuna_esgd.sampler.seeding import seed_sampler


class Nest(RandomSampler):
    """Randomness of every kind, in every kind of place, with a cycle and a module in it."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = [LazyRandomState(), (LazyRandomState(),)]
        self.named: dict[str, Any] = {"a": np.random.RandomState(), "inner": RandomSampler()}
        self.generator = np.random.default_rng()
        self.module = math
        self.kind = RandomSampler
        self.myself = self
        self._warn_independent_sampling = True

    def numbers(self) -> list[float]:
        states = [
            self._rng.rng,
            self.listed[0].rng,
            self.listed[1][0].rng,
            self.named["a"],
            self.named["inner"]._rng.rng,
            self.generator,
        ]
        return [state.normal() for state in states]


def test_every_random_state_is_seeded_each_with_its_own_seed() -> None:
    nests = [Nest() for _ in range(3)]
    for nest, seed in zip(nests, [1, 1, 2], strict=True):
        seed_sampler(nest, seed)
    first, second, other = (nest.numbers() for nest in nests)
    assert first == second
    assert len({*first, *other}) == 12
    assert not nests[0]._warn_independent_sampling


def test_parts_that_share_a_state_still_share_it() -> None:
    sampler = NSGAIISampler()
    seed_sampler(sampler, 0)
    strategy: Any = sampler._child_generation_strategy
    assert strategy._rng is sampler._rng


def test_wrapped_samplers_are_seeded() -> None:
    def number(seed: int) -> float:
        inner = RandomSampler()
        wrapped: BaseSampler = PartialFixedSampler({}, inner)
        seed_sampler(wrapped, seed)
        return inner._rng.rng.normal()

    assert number(1) == number(1) != number(2)
