"""Arms that train networks one by one: restarts, random search, TPE with Hyperband."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import optuna
from optuna.trial import Trial, TrialState
from torch import nn

from optuna_esgd.comparison.networks import Networks, Prepared, with_cosine
from optuna_esgd.comparison.outcome import Outcome
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import resample
from optuna_esgd.sampler.proposals import suggest_species
from optuna_esgd.trainer.benchmark import Benchmark
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer


def restart_recipe(benchmark: Benchmark, *, n_epochs: int, seed: int) -> Outcome:
    """Train ``population_size`` networks by the benchmark's recipe; the best of them counts.

    Not one network alone, which would get a small part of the others' budget.
    """
    networks = _networks(benchmark.trainer(), seed)

    def prepare(model: nn.Module) -> Prepared:
        return benchmark.recipe.prepare(model, n_epochs)

    for _ in range(benchmark.population_size):
        _go_on(networks.train(prepare), n_epochs)
    return networks.outcome()


def search_at_random(benchmark: Benchmark, *, n_epochs: int, seed: int) -> Outcome:
    """Train a population without evolution: species and hyperparameters are drawn once.

    As founders draw them, from the same ranges; learning rates fall along a cosine.
    """
    trainer = benchmark.trainer()
    networks = _networks(trainer, seed)
    names = sorted(trainer.species)
    for number in range(benchmark.population_size):
        rng = stream(seed, "random search", number)
        species = trainer.species[names[int(rng.integers(len(names)))]]
        values = {name: resample(range_, rng) for name, range_ in species.space.items()}
        prepare = with_cosine(species, values, n_epochs)
        cost = species.gradients_per_step
        _go_on(networks.train(prepare, gradients_per_step=cost), n_epochs)
    return networks.outcome()


def search_by_tpe(benchmark: Benchmark, *, n_epochs: int, seed: int) -> Outcome:
    """Let Optuna's TPE propose networks and Hyperband stop them, until the budget is spent.

    Each trial is one network of at most ``n_epochs`` epochs, whose learning rate falls along a
    cosine of that length. All trials together have as many epochs as a population; the last one
    ends where the budget does.
    """
    trainer = benchmark.trainer()
    networks = _networks(trainer, seed)
    study = optuna.create_study(
        study_name=f"tpe {seed}",  # Hyperband draws brackets from it
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=n_epochs),
    )
    budget = benchmark.population_size * n_epochs
    while networks.n_epochs < budget:
        trial = study.ask()
        n_left = min(n_epochs, budget - networks.n_epochs)
        value = _train_trial(trial, trainer, networks, n_epochs=n_epochs, n_left=n_left)
        study.tell(trial, value, state=TrialState.PRUNED if value is None else None)
    return networks.outcome()


def _train_trial(
    trial: Trial, trainer: ESGDTrainer, networks: Networks, *, n_epochs: int, n_left: int
) -> float | None:
    """Train the network that a trial describes; its best fitness, or None if it was stopped."""
    name, values = suggest_species(
        trial, {name: one.space for name, one in trainer.species.items()}
    )
    species = trainer.species[name]
    epochs = networks.train(
        with_cosine(species, values, n_epochs), gradients_per_step=species.gradients_per_step
    )
    best = float("inf")
    for number, fitness in enumerate(islice(epochs, n_left), start=1):
        best = min(best, fitness)
        trial.report(fitness, number)
        if number < n_epochs and trial.should_prune():
            return None
    return best


def _networks(trainer: ESGDTrainer, seed: int) -> Networks:
    return Networks(trainer.task, seed=seed, device=trainer.device)


def _go_on(epochs: Iterator[float], n_epochs: int) -> None:
    """Train for so many epochs."""
    for _ in islice(epochs, n_epochs):
        pass
