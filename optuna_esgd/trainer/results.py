"""After training: the best weights, the last population, files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial
from torch import Tensor, nn

from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.engine.places import current_holders
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.errors import ConfigurationError, StudyError, WeightsNotFoundError
from optuna_esgd.genome.codec import adopt, encode
from optuna_esgd.genome.layout import named_persistent_buffers
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.written_files import write_whole


def load_best(study: optuna.Study, model: nn.Module, *, store: str | None = None) -> nn.Module:
    """Load the best weights of a study into a model.

    The best may be a trial's individual or, in the last evolution step, an offspring that beats
    all of them; then its fitness is better than ``study.best_value``.

    Args:
        study: A study trained by ESGD.
        model: A model of the same architecture; changed in place, its mode stays (call
            ``model.eval()`` before use).
        store: Where weights are, if not in the study's database.

    Returns:
        ``model``.

    Raises:
        StudyError: The study has no population.
        WeightsNotFoundError: Nobody has finished yet.
        CorruptionError: The stored bytes do not match their digest.
    """
    population = open_results(study, store)
    load_weights(model, read_tensors(population, find_best(population).reference))
    return model


def load_individual(
    study: optuna.Study,
    trial: int | FrozenTrial,
    model: nn.Module,
    *,
    store: str | None = None,
) -> nn.Module:
    """Load the weights a trial ended with, where they are still stored.

    Stored are the last finished generation and the one in training (in an asynchronous run: who
    holds a place, and the parents of whoever is on the way), the best so far, and pinned trials
    (``esgd.pin``).

    Raises:
        ConfigurationError: ``trial`` is none.
        WeightsNotFoundError: The trial has no individual, or its weights were collected.
    """
    population = open_results(study, store)
    load_weights(model, read_tensors(population, _of_trial(population, trial).reference))
    return model


def pin(
    study: optuna.Study,
    trial: int | FrozenTrial,
    *,
    pinned: bool = True,
    store: str | None = None,
) -> None:
    """Keep a trial's weights for good, or no longer.

    Raises:
        ConfigurationError: ``trial`` is none.
        WeightsNotFoundError: The trial has no individual, or its weights were collected already.
    """
    population = open_results(study, store)
    individual = _of_trial(population, trial)
    if pinned and individual.fitness is not None and not individual.is_stored:
        raise WeightsNotFoundError(
            f"The weights of trial {individual.trial_number} were collected already; pin a trial "
            "before the generation after next begins."
        )
    population.pin(individual.reference, pinned=pinned)


def export(
    study: optuna.Study,
    path: str | os.PathLike[str],
    *,
    trial: int | FrozenTrial | None = None,
    store: str | None = None,
) -> Path:
    """Write the weights of the best individual, or of a trial, to a ``.safetensors`` file.

    The file is written beside its place and then moved there, so that it is whole or absent.

    Raises:
        ConfigurationError: ``trial`` is none, or see ``write_whole``.
        WeightsNotFoundError: The trial has no individual, or its weights were collected.
    """
    population = open_results(study, store)
    individual = find_individual(population, trial)
    metadata = {"study": study.study_name, "individual": str(individual.reference)}
    return write_tensors(path, read_tensors(population, individual.reference), metadata)


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> Path:
    """Write tensors to a ``.safetensors`` file, whole or not at all.

    Raises:
        ConfigurationError: See ``write_whole``.
    """
    # Of our own making: the same tensors are the same bytes, texts beside them included.
    return write_whole(path, Snapshot(*encode(tensors, metadata)).cut_file())


def last_population(population: Population) -> list[Individual]:
    """The finished, stored individuals of the latest complete generation, best first.

    In an asynchronous run, those who hold a place now.

    Raises:
        WeightsNotFoundError: No generation is complete yet.
    """
    facts = population.facts()
    if population.configuration.get("asynchronous"):
        holders = [one for one in current_holders(facts) if one.is_stored]
        if holders:
            return sorted(holders, key=lambda one: one.fitness_or_inf)
        raise WeightsNotFoundError("No individual has finished yet; train at least one trial.")
    latest = facts.generation
    for generation in range(latest, max(latest - 2, -1), -1):
        slots = [s for s in population.slots(generation=generation) if s.key.round == 0]
        if slots and all(slot.state == "finished" for slot in slots):
            everyone = population.individuals(generation=generation)
            stored = [one for one in everyone if one.is_stored and one.reference.round == 0]
            return sorted(stored, key=lambda one: one.fitness_or_inf)
    raise WeightsNotFoundError("No generation is complete yet; train at least one.")


def read_tensors(population: Population, reference: Reference) -> dict[str, Tensor]:
    """An individual's state dict, by name, on the CPU."""
    snapshot = population.read_weights(reference)
    return adopt(snapshot.manifest, snapshot.payload)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy tensors into a model in place; weights that are tied are given once.

    Raises:
        StudyError: The model has other tensors than these.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"model must be a torch.nn.Module to load weights into, got {type(model).__name__}."
        )
    wanted: dict[str, Tensor] = dict(named_persistent_buffers(model))
    wanted.update(model.named_parameters())
    if differing := wanted.keys() ^ tensors.keys():
        raise StudyError(
            f"The model is not the one that was trained: tensors {sorted(differing)[:5]} are in "
            "only one of them. Build it as the task does."
        )
    with torch.no_grad():
        for name, target in wanted.items():
            if target.shape != tensors[name].shape:
                raise StudyError(
                    f"The model is not the one that was trained: {name} has shape "
                    f"{tuple(target.shape)}, stored is {tuple(tensors[name].shape)}."
                )
            target.copy_(tensors[name])
    return model


def find_individual(population: Population, trial: int | FrozenTrial | None) -> Individual:
    """The individual a trial shows; the best one if there is none.

    Raises:
        ConfigurationError: ``trial`` is none.
        WeightsNotFoundError: The trial has no individual, or nobody has finished yet.
    """
    return find_best(population) if trial is None else _of_trial(population, trial)


def find_best(population: Population) -> Individual:
    """The best individual so far.

    Raises:
        WeightsNotFoundError: Nobody has finished yet.
    """
    best = population.best()
    if best is None:
        raise WeightsNotFoundError("No individual has finished yet; train at least one trial.")
    return best


def _of_trial(population: Population, trial: int | FrozenTrial) -> Individual:
    number: object = getattr(trial, "number", trial)
    if not isinstance(number, int) or isinstance(number, bool):
        raise ConfigurationError(
            f"trial must be a trial's number, or a trial such as study.best_trial, got {trial!r}."
        )
    individual = population.individual_of_trial(number)
    if individual is None:
        raise WeightsNotFoundError(f"Trial {number} has no individual in this study.")
    return individual
