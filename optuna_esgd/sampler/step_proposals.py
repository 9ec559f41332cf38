"""``explore=<Optuna sampler>`` where the objective itself suggests: one value after the other."""

from __future__ import annotations

import copy

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.evolution.space import Value
from optuna_esgd.sampler.distributions import suggest
from optuna_esgd.sampler.held_slots import HeldSlot
from optuna_esgd.sampler.proposals import open_study_in_memory, ranked_improvements


def propose(
    sampler: BaseSampler,
    study: optuna.Study,
    held: HeldSlot,
    name: str,
    distribution: BaseDistribution,
) -> Value:
    """Let a sampler that has seen how past SGD steps improved propose a value.

    Args:
        sampler: Never changed: each individual asks a copy, seeded by its counter.
        study: Whose trials show the past individuals.
        held: The slot of the individual the value is for.
        name: The parameter.
        distribution: Its range in this trial.
    """
    if held.shadow is None:
        held.shadow = _open_shadow(sampler, study, held)
    return suggest(held.shadow, name, distribution)


def _open_shadow(sampler: BaseSampler, study: optuna.Study, held: HeldSlot) -> Trial:
    """A trial of a study in memory, whose finished trials are the past individuals."""
    generation, _, number = held.individual.reference
    seed = derive_seed(held.configuration.seed, generation, number, "explore")
    shadow = open_study_in_memory(copy.deepcopy(sampler), seed)
    shown = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = {one.number: one for one in shown}
    past = [
        one
        for one in held.population.individuals()
        if one.reference.round == 0 and one.reference.generation < generation
    ]
    for one, gain in ranked_improvements(past):
        trial = trials.get(-1 if one.trial_number is None else one.trial_number)
        if trial is not None and trial.params:
            shadow.add_trial(
                optuna.create_trial(
                    params=trial.params, distributions=trial.distributions, value=gain
                )
            )
    return shadow.ask()
