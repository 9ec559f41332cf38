"""The arm that trains networks one by one: TPE with Hyperband, which learns from each."""

from __future__ import annotations

from itertools import islice

import optuna
import torch
from optuna.trial import Trial, TrialState

from optuna_esgd.comparison.networks import Networks, with_cosine
from optuna_esgd.comparison.outcome import Outcome
from optuna_esgd.sampler.proposals import suggest_species
from optuna_esgd.trainer.benchmark import Benchmark
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer


def search_by_tpe(
    benchmark: Benchmark, *, n_epochs: int, seed: int, device: str | torch.device | None = None
) -> Outcome:
    """Let Optuna's TPE propose networks and Hyperband stop them, until the budget is spent.

    Each trial is one network of at most ``n_epochs`` epochs, whose learning rate falls along a
    cosine of that length. All trials together have as many epochs as a population; the last one
    ends where the budget does.
    """
    trainer = benchmark.trainer(device=device)
    networks = Networks(trainer.task, seed=seed, device=trainer.device)
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
