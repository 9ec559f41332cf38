"""Arms that train a population: settings of one and the same engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from optuna_esgd.comparison.outcome import Outcome
from optuna_esgd.sampler.esgd_sampler import ESGDSampler
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.benchmark import Benchmark
from optuna_esgd.trainer.results import load_best
from optuna_esgd.trainer.seeding import seeded

# Population-based training after Jaderberg et al. 2017: the worst quarter goes on as copies of the
# best, whose hyperparameters are multiplied by 0.8 or 1.25; nothing is bred and nobody backs off.
PBT = {
    "selection": "truncation",
    "back_off": "none",
    "explore": "perturb",
    "resample_probability": 0.0,
    "inherit_optimizer_state": True,
}
POPULATIONS: Mapping[str, Mapping[str, Any]] = {
    "esgd": {"preset": "coevolve"},
    "paper": {"preset": "paper", "n_epochs": 1},
    "baseline": {"preset": "paper", "n_epochs": 1, "n_offspring": 0},
    "pbt": PBT,
}


def epochs_per_step(arm: str, benchmark: Benchmark) -> int:
    """Epochs of one SGD step of a population arm: budgets are whole multiples of it."""
    return int(POPULATIONS[arm].get("n_epochs", benchmark.n_epochs))


def train_population(arm: str, benchmark: Benchmark, *, n_epochs: int, seed: int) -> Outcome:
    """Train a population in memory until all generations are done.

    Args:
        arm: One of ``POPULATIONS``.
        benchmark: The task, its species, and the size of the population.
        n_epochs: Epochs of each individual; a multiple of ``epochs_per_step``.
        seed: Of the method.
    """
    n_epochs_each_step = epochs_per_step(arm, benchmark)
    settings: dict[str, Any] = {"n_epochs": n_epochs_each_step, **POPULATIONS[arm]}
    sampler = ESGDSampler(
        benchmark.population_size,
        seed=seed,
        n_generations=n_epochs // n_epochs_each_step,
        **settings,
    )
    study = optuna.create_study(sampler=sampler)
    study.optimize(benchmark.trainer())
    population = open_results(study, None)
    everyone, best = population.individuals(), population.best()
    with seeded(seed):
        model = benchmark.task.build_model()
    return Outcome(
        model=load_best(study, model),
        validation=float("inf") if best is None else best.fitness_or_inf,
        n_gradients=sum(one.n_gradients for one in everyone),
        n_forwards=sum(one.n_forwards for one in everyone),
        n_evaluations=sum(one.n_evaluations for one in everyone),
    )
