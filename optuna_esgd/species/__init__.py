"""Species: how individuals train.

A *species* is an optimizer and the space of its hyperparameters; individuals of different species
coevolve by competing for survival. One optimizer lives in one file here: its search space, and its
*batched update*, which steps many individuals with hyperparameters of their own in one expression.
The *state* of an optimizer (momentum and the like) is stored and inherited, its hyperparameters
are given anew.
"""

from optuna_esgd.species.adadelta import Adadelta
from optuna_esgd.species.adagrad import Adagrad
from optuna_esgd.species.adam import Adam
from optuna_esgd.species.adamax import Adamax
from optuna_esgd.species.adamw import AdamW
from optuna_esgd.species.amsgrad import AMSGrad
from optuna_esgd.species.base import Species
from optuna_esgd.species.batched import BatchedUpdate
from optuna_esgd.species.nadam import NAdam
from optuna_esgd.species.radam import RAdam
from optuna_esgd.species.registry import DEFAULT_SPECIES, resolve_species, stock_species
from optuna_esgd.species.rmsprop import RMSprop
from optuna_esgd.species.rprop import Rprop
from optuna_esgd.species.sgd import SGD
from optuna_esgd.species.state import flatten_state, restore_state

__all__ = [
    "DEFAULT_SPECIES",
    "SGD",
    "AMSGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchedUpdate",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Species",
    "flatten_state",
    "resolve_species",
    "restore_state",
    "stock_species",
]
