"""How large is the noise of fitness, against the differences selection must see?

Fitness is a mean over validation examples. Another draw of as many examples would give another
mean; the bootstrap (Efron 1979) says how far from this one. Individuals are scored on the same
examples, so what counts is the noise of their difference, example by example.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optuna_esgd.doctor.differences import difference
from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.errors import TaskError
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import evaluation_mode
from optuna_esgd.trainer.training_batches import example_losses

_NAME = "noise of fitness"
_N_DRAWS = 400
# A difference of so many standard errors is hardly luck.
_STANDARD_ERRORS = 2.0
# How far the mean over examples may be from the fitness that is measured.
_MOST_OFF = 1e-3
_MOST_INDIVIDUALS = 16

Floats = npt.NDArray[np.float64]


class Noise(NamedTuple):
    """What can be told apart on the validation examples.

    Attributes:
        n_examples: In the validation set.
        smallest: The smallest difference to the best that can be told from 0.
        best_to_median: Between the best and the median individual.
        best_to_second: Between the best and the second best.
        p_best: In which share of redrawn validation sets the best is the best.
    """

    n_examples: int
    smallest: float
    best_to_median: float
    best_to_second: float
    p_best: float


def examine_noise(patient: Patient) -> Finding:
    """Bootstrap the differences of fitness among founders that have trained for an epoch."""
    finite = [row for row, fitness in enumerate(patient.fitness) if math.isfinite(fitness)]
    if len(finite) < 2:
        return _not_measured("fewer than two founders have a fitness after their first epoch")
    if not isinstance(patient.task, SupervisedTask):
        return _not_measured(
            "fitness(model) of a task with a loop of its own returns one number, not one for each "
            "example"
        )
    rows = finite[:_MOST_INDIVIDUALS]
    try:
        losses = np.stack([_example_fitness(patient, patient.task, row) for row in rows])
    except TaskError:
        return _not_measured("the metric cannot be asked for one example at a time")
    measured = [patient.fitness[row] for row in rows]
    if difference(losses.mean(axis=1).tolist(), measured).relative > _MOST_OFF:
        return _not_measured("the metric is no mean over examples, so it cannot be taken apart")
    return _finding(measure(losses, seed=patient.configuration.seed), len(rows))


def measure(losses: Floats, *, seed: int) -> Noise:
    """Bootstrap over examples.

    Args:
        losses: (individuals, examples) lower is better; two of each at least.
        seed: Of the draws.
    """
    n_examples = losses.shape[1]
    fitness = losses.mean(axis=1)
    order = np.argsort(fitness, kind="stable")
    rng = stream(seed, "bootstrap")
    draws = np.stack(
        [
            losses @ np.bincount(rng.integers(n_examples, size=n_examples), minlength=n_examples)
            for _ in range(_N_DRAWS)
        ]
    )
    means = draws / n_examples
    to_best = means[:, order[1:]] - means[:, order[:1]]
    ranked = fitness[order]
    return Noise(
        n_examples=n_examples,
        smallest=float(_STANDARD_ERRORS * np.median(to_best.std(axis=0, ddof=1))),
        best_to_median=float(np.median(ranked) - ranked[0]),
        best_to_second=float(ranked[1] - ranked[0]),
        p_best=float(np.mean(means.argmin(axis=1) == order[0])),
    )


def _finding(noise: Noise, n_individuals: int) -> Finding:
    found = (
        f"With {noise.n_examples} validation examples, differences under {noise.smallest:.2g} "
        f"cannot be told apart. Of {n_individuals} founders after an epoch, the best and the "
        f"median differ by {noise.best_to_median:.2g}, the best and the second by "
        f"{noise.best_to_second:.2g}; on {noise.p_best:.0%} of redrawn validation sets the best "
        "would be the best."
    )
    numbers = noise._asdict()
    if noise.best_to_median >= noise.smallest:
        return Finding(
            examination=_NAME,
            severity="ok",
            found=found,
            advice=""
            if noise.best_to_median / 10 >= noise.smallest
            else "Differences shrink as a run goes on: to see a tenth of the present one takes "
            f"{_examples_for(noise, noise.best_to_median / 10)} validation examples.",
            numbers=numbers,
        )
    if noise.best_to_median == 0:
        advice = "No founder is better than another: train longer, or measure something finer."
    else:
        advice = (
            "Selection sees little but noise, and a population can overfit a validation set that "
            f"small: take {_examples_for(noise, noise.best_to_median)} examples or more, or a "
            "metric that varies less (the loss instead of the error)."
        )
    return Finding(
        examination=_NAME, severity="advice", found=found, advice=advice, numbers=numbers
    )


def _examples_for(noise: Noise, wanted: float) -> str:
    """How many examples it takes to see a difference; noise falls with their square root."""
    needed = noise.n_examples * (noise.smallest / wanted) ** 2
    digits = len(str(int(needed)))
    return f"{max(1, round(needed, 2 - digits)):,.0f}"


def _example_fitness(patient: Patient, task: SupervisedTask, row: int) -> Floats:
    """(examples,) the fitness of one individual on each example; lower is better."""
    model = patient.model(row)
    parts: list[Tensor] = []
    with evaluation_mode(model), torch.no_grad(), task.autocast(patient.device):
        for inputs, targets in task.validation.batches(patient.device):
            parts.append(example_losses(task.metric or task.loss, model(inputs), targets))
    losses = torch.cat([part.reshape(-1).double().cpu() for part in parts]).numpy()
    return -losses if patient.configuration.maximize else losses


def _not_measured(reason: str) -> Finding:
    return Finding(examination=_NAME, severity="ok", found=f"Not measured: {reason}.")
