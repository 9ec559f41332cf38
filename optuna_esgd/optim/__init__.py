"""Optimizers, and the rules they step by.

A *rule* says how an optimizer turns evaluations of the loss into new weights, elementwise and
without a loop over weights. The same rule serves one model as a ``torch.optim.Optimizer`` and
many individuals at once, as rows of a matrix with hyperparameters of their own. The optimizers
here work in plain PyTorch, without the rest of the package; the species of the same names
(``optuna_esgd.species``) add a search space.
"""

from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.optim.closure import Closure, as_closure
from optuna_esgd.optim.conditioned_mutation import ConditionedMutation, sigma_for_lr
from optuna_esgd.optim.cycle_stabilized_sgd import CycleStabilizedSGD
from optuna_esgd.optim.entropy_sgd import EntropySGD
from optuna_esgd.optim.extrapolated_sgd import ExtrapolatedSGD
from optuna_esgd.optim.nonlinear_cg import NonlinearCG
from optuna_esgd.optim.power_gradient import PowerAMSGrad, PowerGradientSGD
from optuna_esgd.optim.rule import Rule
from optuna_esgd.optim.rule_optimizer import RuleOptimizer
from optuna_esgd.optim.stdp import STDP

__all__ = [
    "STDP",
    "BatchedUpdate",
    "Closure",
    "ConditionedMutation",
    "CycleStabilizedSGD",
    "EntropySGD",
    "ExtrapolatedSGD",
    "NonlinearCG",
    "PowerAMSGrad",
    "PowerGradientSGD",
    "Rule",
    "RuleOptimizer",
    "as_closure",
    "sigma_for_lr",
]
