"""Species: how individuals train.

A *species* is an optimizer and the space of its hyperparameters; individuals of different species
coevolve by competing for survival. One species lives in one file here: its search space, and its
*rule*, which steps many individuals with hyperparameters of their own in one expression (that of
the package's own optimizers is in ``optuna_esgd.optim``).
The *state* of an optimizer (momentum and the like) is stored and inherited, its hyperparameters
are given anew.
"""

from optuna_esgd.evolution.space import Choices, FloatRange, IntRange
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.species.adadelta import Adadelta
from optuna_esgd.species.adagrad import Adagrad
from optuna_esgd.species.adam import Adam
from optuna_esgd.species.adamax import Adamax
from optuna_esgd.species.adamw import AdamW
from optuna_esgd.species.amsgrad import AMSGrad
from optuna_esgd.species.base import Species
from optuna_esgd.species.conditioned_mutation import ConditionedMutation
from optuna_esgd.species.cycle_stabilized_sgd import CycleStabilizedSGD
from optuna_esgd.species.entropy_sgd import EntropySGD
from optuna_esgd.species.extrapolated_sgd import ExtrapolatedSGD
from optuna_esgd.species.nadam import NAdam
from optuna_esgd.species.nonlinear_cg import NonlinearCG
from optuna_esgd.species.power_gradient import PowerAMSGrad, PowerGradientSGD
from optuna_esgd.species.radam import RAdam
from optuna_esgd.species.registry import (
    DEFAULT_SPECIES,
    named_species,
    resolve_species,
    stock_species,
)
from optuna_esgd.species.rmsprop import RMSprop
from optuna_esgd.species.rprop import Rprop
from optuna_esgd.species.sgd import SGD
from optuna_esgd.species.state import flatten_state, restore_state
from optuna_esgd.species.stdp import STDP

__all__ = [
    "DEFAULT_SPECIES",
    "SGD",
    "STDP",
    "AMSGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchedUpdate",
    "Choices",
    "ConditionedMutation",
    "CycleStabilizedSGD",
    "EntropySGD",
    "ExtrapolatedSGD",
    "FloatRange",
    "IntRange",
    "NAdam",
    "NonlinearCG",
    "PowerAMSGrad",
    "PowerGradientSGD",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Species",
    "flatten_state",
    "named_species",
    "resolve_species",
    "restore_state",
    "stock_species",
]
