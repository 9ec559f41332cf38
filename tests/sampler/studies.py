"""Studies and objectives the sampler's tests share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import Trial

from optuna_esgd import ESGDSampler

Objective = Callable[[Trial], float]


def make_study(sampler: BaseSampler | None = None, **arguments: Any) -> optuna.Study:
    return optuna.create_study(sampler=sampler or ESGDSampler(4, seed=0), **arguments)


def run(sampler: BaseSampler, objective: Objective, n_trials: int, **options: Any) -> optuna.Study:
    study = make_study(sampler)
    study.optimize(objective, n_trials=n_trials, **options)
    return study


def values_of(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def sphere(trial: Trial) -> float:
    optimum = (3.7, -2.1, 1.3, 3.7, -2.1)
    return sum(
        (trial.suggest_float(f"x{index}", -5, 5) - best) ** 2 for index, best in enumerate(optimum)
    )


def rosenbrock(trial: Trial) -> float:
    x = [trial.suggest_float(f"x{index}", -2, 2) for index in range(4)]
    return sum(100 * (b - a**2) ** 2 + (1 - a) ** 2 for a, b in itertools.pairwise(x))


def branin(trial: Trial) -> float:
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    bowl = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    return bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887


def training(trial: Trial) -> float:
    """Like a validation loss: log scales, a value near 1, whole numbers, choices."""
    rate = trial.suggest_float("lr", 1e-5, 1, log=True)
    momentum = trial.suggest_float("momentum", 0, 0.999)
    n_layers = trial.suggest_int("n_layers", 1, 8)
    n_units = trial.suggest_int("n_units", 8, 1024, log=True)
    activation = trial.suggest_categorical("activation", ["relu", "tanh", "gelu", None])
    return (
        0.5 * (math.log10(rate / (1 - momentum)) + 1.5) ** 2
        + 0.3 * abs(math.log10(1 - momentum) + 1.3)
        + 0.05 * (n_layers - 5) ** 2
        + 0.05 * (math.log2(n_units) - 7.3) ** 2
        + {"relu": 0.1, "tanh": 0.3, "gelu": 0.0, None: 1.0}[activation]
    )


def conditional(trial: Trial) -> float:
    """Every kind of model has its own parameters; the best kind is not the easiest to begin."""
    kind = trial.suggest_categorical("kind", ["svm", "forest", "net"])
    if kind == "svm":
        c = trial.suggest_float("c", 1e-3, 1e3, log=True)
        return 0.3 + 0.05 * (math.log10(c) - 1) ** 2
    if kind == "forest":
        depth = trial.suggest_int("depth", 1, 32)
        n_trees = trial.suggest_int("n_trees", 10, 500, step=10)
        return 0.25 + 0.002 * (depth - 13) ** 2 + abs(n_trees - 300) / 3000
    rate = trial.suggest_float("lr", 1e-5, 1, log=True)
    n_layers = trial.suggest_int("n_layers", 1, 5)
    widths = [trial.suggest_int(f"width{i}", 4, 256, log=True) for i in range(n_layers)]
    misfit = sum((math.log2(width) - 5 - i / 2) ** 2 for i, width in enumerate(widths))
    return (
        0.1 * (math.log10(rate) + 2.5) ** 2 + 0.05 * (n_layers - 3) ** 2 + 0.05 * misfit / n_layers
    )


SUITE: dict[str, Objective] = {
    one.__name__: one for one in (sphere, rosenbrock, branin, training, conditional)
}
