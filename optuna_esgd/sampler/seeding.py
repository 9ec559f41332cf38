"""Seeding a whole Optuna sampler, with everything it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
from optuna.samplers import BaseSampler, QMCSampler
from optuna.samplers._lazy_random_state import LazyRandomState

from optuna_esgd.evolution.randomness import derive_seed


def seed_sampler(sampler: BaseSampler, seed: int) -> None:
    """Make everything random in a sampler a function of ``seed``; nested samplers included.

    Also silences Optuna's hints that a parameter was sampled independently: their advice is for
    people who write an objective.

    Args:
        sampler: Is changed.
        seed: Any number.
    """
    for index, part in enumerate(_parts(sampler)):
        part_seed = derive_seed(seed, "sampler", index) % 2**32
        match part:
            case LazyRandomState():
                part.rng.seed(part_seed)
            case np.random.RandomState():
                part.seed(part_seed)
            case np.random.Generator():
                part.bit_generator.state = type(part.bit_generator)(part_seed).state
            case QMCSampler():
                part._seed = part_seed
        if hasattr(part, "_warn_independent_sampling"):
            part._warn_independent_sampling = False


def _parts(root: object) -> Iterator[object]:
    """The root and every object it holds, each once, in an order that depends on nothing else."""
    found: set[int] = set()
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if id(part) in found or isinstance(part, type | ModuleType):
            continue
        found.add(id(part))
        yield part
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif not isinstance(part, LazyRandomState):
            waiting.extend(getattr(part, "__dict__", {}).values())
