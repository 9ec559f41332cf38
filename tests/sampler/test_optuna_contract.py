"""Optuna's own, published test cases for samplers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from optuna_esgd import ESGDSampler


def default() -> BaseSampler:
    return ESGDSampler(seed=0)


def evolving_early() -> BaseSampler:
    """Founders are over after three trials, so that Optuna's short tests meet offspring."""
    return ESGDSampler(population_size=3, seed=0, resample_probability=0.5)


def without_seed() -> BaseSampler:
    return ESGDSampler(population_size=2)


class TestESGDSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=[default, evolving_early, without_seed])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        make: Callable[[], BaseSampler] = request.param
        return make
