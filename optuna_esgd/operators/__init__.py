"""Operators: what a population does to weights besides averaging and training them.

A *mutation* moves an offspring away from the mean of its parents, in place of Gaussian noise; it
may ask the task where to go. A *diversity operator* keeps the individuals of a cohort apart
(suppression) or together (coupling).
"""

from optuna_esgd.operators.coupling import ElasticCoupling
from optuna_esgd.operators.gradient_noise import GradientNoiseMutation
from optuna_esgd.operators.metropolis import MetropolisMutation
from optuna_esgd.operators.mutation import Landscape, Mutation
from optuna_esgd.operators.path_mutation import PathMutation
from optuna_esgd.operators.registry import (
    Diversity,
    DiversityLike,
    MutationLike,
    resolve_diversity,
    resolve_mutation,
)
from optuna_esgd.operators.suppression import ClusterSuppression

__all__ = [
    "ClusterSuppression",
    "Diversity",
    "DiversityLike",
    "ElasticCoupling",
    "GradientNoiseMutation",
    "Landscape",
    "MetropolisMutation",
    "Mutation",
    "MutationLike",
    "PathMutation",
    "resolve_diversity",
    "resolve_mutation",
]
