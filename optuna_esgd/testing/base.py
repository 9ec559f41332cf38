"""What the parts of the contract share: the fixtures to fill in, and threads that race."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Reference
from optuna_esgd.engine.ports import Population
from optuna_esgd.testing.examples import example_configuration

_T = TypeVar("_T")


class Contract:
    """Fixtures and hooks of all contract classes.

    Attributes:
        n_threads: How many race each other.
        short_lease_seconds: Long enough to be held by a thread, short enough to wait for.
    """

    n_threads = 4
    short_lease_seconds = 0.05

    @pytest.fixture
    def configuration(self) -> Configuration:
        """What the population is made with."""
        return example_configuration()

    @pytest.fixture
    def population(self, configuration: Configuration) -> Population:
        """A new, empty population; to be overridden."""
        raise NotImplementedError("Override the fixture `population`.")

    def corrupt(self, population: Population, reference: Reference) -> None:  # noqa: ARG002
        """Change a stored byte of an individual's weights; to be overridden where possible."""
        pytest.skip("This population does not say how to damage its bytes.")

    def race(self, act: Callable[[int], _T]) -> list[_T]:
        """Call ``act(0) .. act(n_threads - 1)`` at the same time."""
        barrier = threading.Barrier(self.n_threads)

        def run(number: int) -> _T:
            barrier.wait()
            return act(number)

        with ThreadPoolExecutor(self.n_threads) as threads:
            return list(threads.map(run, range(self.n_threads)))
