"""What users may write for a mutation or a diversity operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators.coupling import ElasticCoupling
from optuna_esgd.operators.gradient_noise import GradientNoiseMutation
from optuna_esgd.operators.metropolis import MetropolisMutation
from optuna_esgd.operators.mutation import Mutation
from optuna_esgd.operators.path_mutation import PathMutation
from optuna_esgd.operators.suppression import ClusterSuppression

Diversity: TypeAlias = ClusterSuppression | ElasticCoupling
MutationLike: TypeAlias = Mutation | str
DiversityLike: TypeAlias = Diversity | str

MUTATIONS: Mapping[str, Callable[[], Mutation]] = {
    "gradient_noise": GradientNoiseMutation,
    "metropolis": MetropolisMutation,
    "path": PathMutation,
}
DIVERSITY: Mapping[str, Callable[[], Diversity]] = {
    "suppression": ClusterSuppression,
    "coupling": ElasticCoupling,
}


def resolve_mutation(mutation: MutationLike) -> Mutation | None:
    """Make a mutation of what users write; None stands for Gaussian noise (``"gaussian"``).

    Raises:
        ConfigurationError: An unknown name, or an object that does not mutate or has no words for
            itself.
    """
    if isinstance(mutation, str):
        if mutation == "gaussian":
            return None
        if mutation in MUTATIONS:
            return MUTATIONS[mutation]()
    elif isinstance(mutation, Mutation) and not isinstance(mutation, type):
        if type(mutation).__repr__ is object.__repr__:
            raise ConfigurationError(
                f"{type(mutation).__name__} needs a __repr__ that says what it is, the same in "
                "every run: a study remembers it. A dataclass has one."
            )
        return mutation
    names = ", ".join(map(repr, ("gaussian", *MUTATIONS)))
    if callable(getattr(mutation, "mutate", None)) and not isinstance(mutation, type):
        costs = ("n_gradients", "n_evaluations")
        missing = [name for name in costs if not hasattr(mutation, name)]
        raise ConfigurationError(
            f"{type(mutation).__name__} mutates, but does not say what that costs: give it "
            f"{' and '.join(missing)}, the numbers per offspring."
        )
    raise ConfigurationError(
        f"mutation must be one of {names}, or an object such as GradientNoiseMutation(rank=8), "
        f"got {mutation!r}."
    )


def resolve_diversity(diversity: DiversityLike | None) -> Diversity | None:
    """Make a diversity operator of what users write.

    Raises:
        ConfigurationError: An unknown name, something else, or several: suppression drives
            individuals apart and coupling together.
    """
    if isinstance(diversity, list | tuple | set):
        raise ConfigurationError(
            f"diversity takes one operator, got {diversity!r}: suppression drives individuals "
            "apart and coupling draws them together."
        )
    if isinstance(diversity, str) and diversity in DIVERSITY:
        return DIVERSITY[diversity]()
    if diversity is None or isinstance(diversity, ClusterSuppression | ElasticCoupling):
        return diversity
    names = ", ".join(map(repr, DIVERSITY))
    raise ConfigurationError(
        f"diversity must be None, one of {names}, or an object such as ClusterSuppression(), got "
        f"{diversity!r}."
    )
