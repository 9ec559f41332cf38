"""Checks everything a population says about itself, through the port alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import optuna
from optuna.trial import TrialState

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual, Reference, Slot
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import CorruptionError, WeightsNotFoundError
from optuna_esgd.evolution.fitness import mean_of_best
from optuna_esgd.store.chunks import pack
from optuna_esgd.store.events import TOO_LATE, about_events, ancestors_of


def verify(population: Population, configuration: Configuration | None = None) -> list[str]:
    """Read everything again and recompute what can be recomputed.

    Checked are the digests of all stored weights and optimizer states; that every individual is
    in exactly one slot, and ended if the slot is finished; that parents exist and came before;
    that each birth fitness is the one its origin ended with; that nobody ended worse than born;
    and that each certificate follows from the births and never gets worse (Cui et al. 2018,
    Theorem 1; compared exactly). Of an asynchronous run the guarantee is checked at every
    finished slot instead, see ``store.events``. Without back-off there is no guarantee to check.

    Args:
        population: While others work on it, individuals may end between two reads; verify when
            it rests.
        configuration: Number of elites; the stored one where none is given.

    Returns:
        What is not true, in words; empty if all is.
    """
    stored = population.configuration if configuration is None else configuration.to_json()
    n_elites = int(str(stored["n_elites"]))
    order = population.finish_order()  # first: what has finished can be read afterwards
    slots = population.slots()
    everyone = {one.reference: one for one in population.individuals()}
    certificates = population.certificates()
    is_guaranteed = stored["back_off"] != "none"
    if stored.get("asynchronous"):
        about_order = about_events(order, slots, everyone, certificates, n_elites)
    else:
        about_order = itertools.chain(
            _about_generations(everyone), _about_births(certificates, everyone, n_elites)
        )
    about_guarantee = itertools.chain(_about_training(everyone), _about_certificates(certificates))
    return [
        *_about_slots(slots, everyone),
        *_about_lineage(everyone),
        *about_order,
        *(about_guarantee if is_guaranteed else ()),
        *_about_bytes(population, everyone),
    ]


def _about_slots(
    slots: tuple[Slot, ...], everyone: Mapping[Reference, Individual]
) -> Iterator[str]:
    seen: dict[Reference, Slot] = {}
    for slot in slots:
        for reference in slot.references:
            one = everyone.get(reference)
            if reference in seen:
                yield f"Individual {reference} is in two slots."
            seen[reference] = slot
            if one is None:
                yield f"{slot.key} holds individual {reference}, which does not exist."
            elif slot.state == "finished" and one.fitness is None:
                yield f"{slot.key} is finished, but its individual {reference} has no fitness."
            elif slot.state != "finished" and one.fitness is not None:
                yield f"Individual {reference} has a fitness, but {slot.key} is {slot.state}."
    for reference in everyone:
        if reference not in seen:
            yield f"Individual {reference} is in no slot."


def _about_lineage(everyone: Mapping[Reference, Individual]) -> Iterator[str]:
    for one in everyone.values():
        who = f"Individual {one.reference}"
        for parent in ancestors_of(one):
            if parent not in everyone:
                yield f"{who} descends from {parent}, which does not exist."
            elif everyone[parent].fitness is None:
                yield f"{who} descends from {parent}, which has not ended yet."
        if (one.birth == "founder") != (not one.parents):
            yield f"{who} is born as {one.birth} with {len(one.parents)} parents."
        origin = everyone.get(one.origin) if one.origin else None
        if origin is not None and one.birth_fitness != origin.fitness:
            yield (
                f"{who} was born with fitness {one.birth_fitness}, but its origin {one.origin} "
                f"ended with {origin.fitness}."
            )


def _about_training(everyone: Mapping[Reference, Individual]) -> Iterator[str]:
    for one in everyone.values():
        born, ended = one.birth_fitness, one.fitness
        if born is not None and ended is not None and not ended <= born:
            yield (
                f"Individual {one.reference} ended with fitness {ended}, worse than its {born} at "
                "birth."
            )


def _about_generations(everyone: Mapping[Reference, Individual]) -> Iterator[str]:
    for one in everyone.values():
        for parent in ancestors_of(one):
            if parent in everyone and not _is_before(parent, one.reference):
                yield f"Individual {one.reference} descends from {parent}, {TOO_LATE}."


def _is_before(parent: Reference, child: Reference) -> bool:
    """Round 0 descends from the generation before, offspring from earlier rounds of their own."""
    if child.round == 0:
        return parent.generation == child.generation - 1
    return parent.generation == child.generation and parent.round < child.round


def _about_births(
    certificates: Mapping[int, tuple[float, ...]],
    everyone: Mapping[Reference, Individual],
    n_elites: int,
) -> Iterator[str]:
    births = [one for one in everyone.values() if one.reference.round == 0]
    births.sort(key=lambda one: one.reference)
    for generation, members in itertools.groupby(births, key=lambda one: one.reference.generation):
        born = [one.birth_fitness for one in members]
        stored = certificates.get(generation)
        if generation == 0:
            continue
        if stored is None or None in born:
            yield f"Generation {generation} has no certificate, or births without fitness."
            continue
        expected = mean_of_best([one for one in born if one is not None], n_elites)
        if stored != tuple(map(float, expected)):
            yield (
                f"The certificate of generation {generation} says {stored}, its births "
                f"{tuple(map(float, expected))}."
            )


def _about_certificates(certificates: Mapping[int, tuple[float, ...]]) -> Iterator[str]:
    for (before, old), (after, new) in itertools.pairwise(sorted(certificates.items())):
        for n_best, (was, now) in enumerate(zip(old, new, strict=False), start=1):
            if not now <= was:
                yield (
                    f"The mean of the {n_best} best got worse from generation {before} ({was}) "
                    f"to {after} ({now})."
                )


def _about_bytes(
    population: Population, everyone: Mapping[Reference, Individual]
) -> Iterator[str]:
    for reference, one in everyone.items():
        try:
            if one.is_stored:
                digest = pack(population.read_weights(reference)).listing.digest
                if digest != one.weights:
                    yield (
                        f"The weights of individual {reference} have digest {digest}, but "
                        f"{one.weights} was written when it ended."
                    )
            population.read_optimizer_state(reference)
        except (CorruptionError, WeightsNotFoundError) as error:
            yield str(error)


def verify_trials(study: optuna.Study, population: Population) -> list[str]:
    """Compare what Optuna shows with what is stored: values, and hyperparameters.

    Args:
        study: The population's study.
        population: While others work on it, trials may end between two reads.

    Returns:
        The trials that show something else than their individual, in words.
    """
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    shown = {one.trial_number: one for one in population.individuals()}
    lies = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        one = shown.get(trial.number)
        if one is None or one.fitness is None or trial.value is None:
            lies.append(f"Trial {trial.number} is complete, but shows no finished individual.")
            continue
        if trial.value != sign * one.fitness:
            lies.append(
                f"Trial {trial.number} shows the value {trial.value!r}, individual "
                f"{one.reference} ended with {sign * one.fitness!r}."
            )
        stored = dict(one.hyperparameters)
        if trial.params not in (stored, {"species": one.species, **stored}):
            lies.append(
                f"Trial {trial.number} shows {trial.params}, individual {one.reference} trained "
                f"with {stored}."
            )
    return lies
