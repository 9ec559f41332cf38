"""What one arm reached with one seed, and what it has cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task

# A forward pass, and a backward pass that costs about two of them.
FORWARDS_PER_GRADIENT = 3


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm with one seed.

    Attributes:
        arm: Its name.
        seed: Of the task, and of the method.
        n_epochs: Epochs of each individual; of each network where they train one by one.
        validation: Fitness of the chosen model, lower is better; inf if all diverged.
        test: Scores of that model on the test set, which nothing was chosen by.
        n_gradients: Gradient evaluations, each on one mini-batch.
        n_forwards: Evaluations of the loss alone, each on one mini-batch.
        n_evaluations: Fitness evaluations, each on the validation set.
        cost: All of these in forward passes of one mini-batch; see ``total_cost``.
        seconds: Wall time, without that of the test.
    """

    arm: str
    seed: int
    n_epochs: int
    validation: float
    test: Mapping[str, float]
    n_gradients: int
    n_forwards: int
    n_evaluations: int
    cost: int
    seconds: float


def total_cost(task: Task, *, n_gradients: int, n_forwards: int, n_evaluations: int) -> int:
    """What was spent, in forward passes of one mini-batch.

    A gradient counts as three. A fitness evaluation counts as many as the validation set has
    mini-batches of the training's size; as one where the task has a loop of its own and does not
    say how large its data is. Breeding, and re-estimating batch-norm statistics, count nothing.
    """
    per_evaluation = 1
    if isinstance(task, SupervisedTask):
        per_evaluation = math.ceil(len(task.validation) / task.train.batch_size)
    return FORWARDS_PER_GRADIENT * n_gradients + n_forwards + per_evaluation * n_evaluations
