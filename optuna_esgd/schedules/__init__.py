"""Schedules: what changes in the course of training besides the weights.

A *schedule* sets an optimizer's learning rate or momentum step by step, or says which part of a
network trains in which phase. All follow PyTorch's own conventions and work without the rest of
the package.
"""

from optuna_esgd.schedules.momentum_annealing import MomentumAnnealingLR, heavy_ball_variance
from optuna_esgd.schedules.mutual_information import (
    MutualInformationLR,
    entropy,
    mutual_information,
    mutual_information_decay,
)
from optuna_esgd.schedules.partitions import PartitionedTraining
from optuna_esgd.schedules.range_test import RangeTest, lr_range_test

__all__ = [
    "MomentumAnnealingLR",
    "MutualInformationLR",
    "PartitionedTraining",
    "RangeTest",
    "entropy",
    "heavy_ball_variance",
    "lr_range_test",
    "mutual_information",
    "mutual_information_decay",
]
