from __future__ import annotations

from typing import Any

import pytest

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators import (
    ClusterSuppression,
    ElasticCoupling,
    GradientNoiseMutation,
    MetropolisMutation,
    resolve_diversity,
    resolve_mutation,
)


def test_names_and_objects() -> None:
    assert resolve_mutation("gaussian") is None
    assert resolve_mutation("gradient_noise") == GradientNoiseMutation()
    assert resolve_mutation("metropolis") == MetropolisMutation()
    own = MetropolisMutation(beta=3.0)
    assert resolve_mutation(own) is own
    assert resolve_diversity(None) is None
    assert resolve_diversity("suppression") == ClusterSuppression()
    assert resolve_diversity("coupling") == ElasticCoupling()
    assert resolve_diversity(ElasticCoupling(0.2)) == ElasticCoupling(0.2)


@pytest.mark.parametrize("mutation", ["gauss", None, 0.1, GradientNoiseMutation])
def test_refuses_what_does_not_mutate(mutation: Any) -> None:
    with pytest.raises(ConfigurationError, match="'gaussian', 'gradient_noise', 'metropolis'"):
        resolve_mutation(mutation)


def test_says_what_a_mutation_lacks() -> None:
    class Free:
        n_gradients = 0

        def mutate(self, model: Any, sigma: float, landscape: Any, *, seed: int) -> None:
            del model, sigma, landscape, seed

    mutation: Any = Free()
    with pytest.raises(ConfigurationError, match="what that costs: give it n_evaluations, the"):
        resolve_mutation(mutation)


def test_refuses_a_mutation_that_no_study_could_remember() -> None:
    class Nameless(MetropolisMutation):
        __repr__ = object.__repr__

    with pytest.raises(ConfigurationError, match="Nameless needs a __repr__"):
        resolve_mutation(Nameless())


@pytest.mark.parametrize("diversity", ["elastic", 0.1, ElasticCoupling])
def test_refuses_what_is_no_diversity_operator(diversity: Any) -> None:
    with pytest.raises(ConfigurationError, match="'suppression', 'coupling'"):
        resolve_diversity(diversity)


def test_suppression_and_coupling_exclude_each_other() -> None:
    both: Any = ["suppression", "coupling"]
    with pytest.raises(ConfigurationError, match="takes one operator"):
        resolve_diversity(both)
