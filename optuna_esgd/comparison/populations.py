"""Arms that train a population: settings of one and the same engine.

Searches are among them: a population that is never selected is so many networks, each for itself,
which train as one computation like any other cohort. With one seed all of these arms begin with
the same networks, and with the same species and hyperparameters where those are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import torch

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
    "rate_schedule": "constant",
    "resample_probability": 0.0,
    "inherit_optimizer_state": True,
}
# Each network trains for itself, in one SGD step; the best point any of them visited counts, so
# that searches have the same early stopping on the validation set as populations, and pay for it.
ALONE = {
    "n_offspring": 0,
    "explore": "resample",
    "back_off": "best",
    "average_iterates": False,
    "keep_probability": 0.0,
}
POPULATIONS: Mapping[str, Mapping[str, Any]] = {
    "esgd": {"preset": "coevolve"},
    # The same without the means of iterates, and so of steps.
    "unaveraged": {"preset": "coevolve", "average_iterates": False},
    "paper": {"preset": "paper", "n_epochs": 1},
    "baseline": {"preset": "paper", "n_epochs": 1, "n_offspring": 0},
    "pbt": PBT,
    # As founders draw them, from the same ranges; learning rates fall along a cosine.
    "random": {**ALONE, "rate_schedule": "cosine"},
    # Restarts by the benchmark's recipe: one network alone would get a small part of the budget.
    "single": ALONE,
}
_SEARCHES = frozenset({"random", "single"})


def epochs_per_step(arm: str, benchmark: Benchmark) -> int:
    """Epochs that budgets are whole multiples of: those of one SGD step, one where it is all."""
    if arm in _SEARCHES:
        return 1
    return int(POPULATIONS[arm].get("n_epochs", benchmark.n_epochs))


def settings_of(arm: str, benchmark: Benchmark, *, n_epochs: int) -> dict[str, Any]:
    """What ``ESGDSampler`` is told besides the seed.

    Args:
        arm: One of ``POPULATIONS``.
        benchmark: The task, its species, and the size of the population.
        n_epochs: Epochs of each individual; a multiple of ``epochs_per_step``.
    """
    n_epochs_each_step = n_epochs if arm in _SEARCHES else epochs_per_step(arm, benchmark)
    settings = {
        "population_size": benchmark.population_size,
        **POPULATIONS[arm],
        "n_epochs": n_epochs_each_step,
        "n_generations": n_epochs // n_epochs_each_step,
    }
    if arm == "single":
        settings["rate_schedule"] = benchmark.recipe.schedule
    return settings


def train_population(
    arm: str,
    benchmark: Benchmark,
    *,
    n_epochs: int,
    seed: int,
    device: str | torch.device | None = None,
) -> Outcome:
    """Train a population in memory until all generations are done.

    Args:
        arm: One of ``POPULATIONS``.
        benchmark: The task, its species, and the size of the population.
        n_epochs: Epochs of each individual; a multiple of ``epochs_per_step``.
        seed: Of the method.
        device: Where to train; the first GPU if there is one, else the CPU.
    """
    sampler = ESGDSampler(seed=seed, **settings_of(arm, benchmark, n_epochs=n_epochs))
    trainer = benchmark.trainer(device=device, is_by_recipe=arm == "single")
    study = optuna.create_study(sampler=sampler)
    study.optimize(trainer)
    population = open_results(study, None)
    everyone, best = population.individuals(), population.best()
    with seeded(seed):
        model = benchmark.task.build_model().to(trainer.device)
    return Outcome(
        model=load_best(study, model),
        validation=float("inf") if best is None else best.fitness_or_inf,
        n_gradients=sum(one.n_gradients for one in everyone),
        n_forwards=sum(one.n_forwards for one in everyone),
        n_evaluations=sum(one.n_evaluations for one in everyone),
    )
