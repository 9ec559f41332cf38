"""What one step, one evaluation and the whole run cost in time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.doctor.stopwatch import Stopwatch
from optuna_esgd.engine.configuration import Configuration, cohorts
from optuna_esgd.evolution.back_off import BackOffRule

_NAME = "time"
# Short work is done again until so much time has passed: the first time is never typical.
_ENOUGH_SECONDS = 0.5
_MOST_REPEATS = 20
# Offspring that are bred and scored for the measurement, where each is scored by itself.
_N_OFFSPRING = 2
_MUCH = 0.5


class Measured(NamedTuple):
    """Seconds of a worker like this one.

    Attributes:
        epoch: Of one cohort, training.
        evaluation: Of one cohort, being scored.
        offspring: Of one offspring, bred and scored in its cohort.
        n_gradients: Gradient evaluations of one individual in one epoch, on average.
        n_forwards: Evaluations of the loss alone, likewise.
    """

    epoch: float
    evaluation: float
    offspring: float
    n_gradients: float
    n_forwards: float


class Generation(NamedTuple):
    """One generation of a run.

    Attributes:
        training: Worker seconds.
        evaluation: Worker seconds of scoring individuals that train.
        offspring: Worker seconds of breeding offspring and scoring them.
        seconds: Of wall time, with the workers that are planned.
        n_gradients: Gradient evaluations.
        n_forwards: Evaluations of the loss alone.
        n_evaluations: Fitness evaluations.
    """

    training: float
    evaluation: float
    offspring: float
    seconds: float
    n_gradients: float
    n_forwards: float
    n_evaluations: int


def examine_time(patient: Patient) -> Finding:
    """Time an epoch, an evaluation and some offspring, and multiply."""
    patient.say("timing an epoch, an evaluation and offspring")
    measured = _measure(patient)
    configuration = patient.configuration
    one = generation_cost(configuration, measured, n_workers=patient.n_workers)
    n_cohort = len(patient.cohorts[0].individuals)
    work = one.training + one.evaluation + one.offspring
    scoring, breeding = (one.evaluation + one.offspring) / work, one.offspring / work
    per_gradient = measured.epoch / n_cohort / max(1.0, measured.n_gradients)
    per_step = configuration.n_epochs * measured.epoch / n_cohort
    n_generations = configuration.n_generations
    found = (
        f"The SGD step of one individual takes {duration(per_step)} ({configuration.n_epochs} "
        f"epochs of {measured.n_gradients:.0f} gradients, {duration(per_gradient)} each), one "
        f"evaluation {duration(measured.evaluation / n_cohort)}, one offspring "
        f"{duration(measured.offspring)}"
        f"{f', in cohorts of {n_cohort}' if n_cohort > 1 else ''}. A generation takes "
        f"{duration(one.seconds)}{_with(patient.n_workers)}: {one.training / work:.0%} training, "
        f"{scoring:.0%} evaluation ({breeding:.0%} of offspring). "
        f"The backend is {configuration.backend!r}."
    )
    if n_generations is None:
        found += " How many generations there are the file's sampler does not say."
    else:
        n_evaluations = one.n_evaluations * n_generations + _of_founders(configuration)
        found += (
            f" All {n_generations}: {duration(one.seconds * n_generations)}, "
            f"{one.n_gradients * n_generations:,.0f} gradients, "
            f"{one.n_forwards * n_generations:,.0f} forward passes and "
            f"{n_evaluations:,} evaluations; the database's work comes on top."
        )
    advice = _advice(patient, measured, scoring, breeding)
    return Finding(
        examination=_NAME,
        severity="advice" if advice else "ok",
        found=found,
        advice=advice,
        numbers={
            "seconds per gradient": per_gradient,
            "seconds per SGD step": per_step,
            "seconds per evaluation": measured.evaluation / n_cohort,
            "seconds per offspring": measured.offspring,
            "seconds per generation": one.seconds,
            "hours": None if n_generations is None else one.seconds * n_generations / 3600,
            "share of evaluation": scoring,
            "share of offspring": breeding,
            "gradients per generation": one.n_gradients,
            "forwards per generation": one.n_forwards,
            "evaluations per generation": one.n_evaluations,
            "workers": patient.n_workers,
        },
    )


def generation_cost(
    configuration: Configuration, measured: Measured, *, n_workers: int
) -> Generation:
    """Multiply what was measured by what a generation consists of.

    Args:
        configuration: Of the run.
        measured: Of a full cohort.
        n_workers: Each as fast as the one that measured.
    """
    n_individuals, n_epochs = configuration.population_size, configuration.n_epochs
    n_scored = _scored_epochs(configuration)
    sizes = [len(one) for one in cohorts(configuration, n_individuals)]
    n_offspring = configuration.n_offspring
    brood = [len(one) for one in cohorts(configuration, n_offspring)]
    step = n_epochs * measured.epoch + n_scored * measured.evaluation
    largest = max(sizes)
    training = [step * size / largest for size in sizes]
    breeding = [measured.offspring * size for size in brood]
    n_rounds = configuration.n_evolution_rounds
    work = sum(training) + n_rounds * sum(breeding)
    if configuration.asynchronous:
        seconds = work / min(n_workers, len(sizes))
    else:
        seconds = _shared(training, n_workers) + n_rounds * _shared(breeding, n_workers)
    share = sum(sizes) / largest
    return Generation(
        training=n_epochs * measured.epoch * share,
        evaluation=n_scored * measured.evaluation * share,
        offspring=n_rounds * sum(breeding),
        seconds=seconds,
        n_gradients=n_individuals * n_epochs * measured.n_gradients,
        n_forwards=n_individuals * n_epochs * measured.n_forwards,
        n_evaluations=n_individuals * n_scored + n_rounds * n_offspring,
    )


def _shared(seconds: list[float], n_workers: int) -> float:
    """Wall time of slots that workers take one after the other; the last one is waited for."""
    busy = [0.0] * n_workers
    for one in seconds:
        busy[busy.index(min(busy))] += one
    return max(busy)


def _scored_epochs(configuration: Configuration, n_epochs: int | None = None) -> int:
    """How often an SGD step, or its first so many epochs, ask for fitness; see ``BackOffRule``."""
    rule = BackOffRule(configuration.back_off, math.inf)
    last = (configuration.n_epochs if n_epochs is None else n_epochs) - 1
    n_scored = sum(rule.is_scored(is_last_epoch=epoch == last) for epoch in range(last + 1))
    n_longer = last if configuration.average_steps else 0
    return n_scored * (2 if configuration.average_iterates else 1) + n_longer


def _of_founders(configuration: Configuration) -> int:
    """How many more evaluations the first generation takes than each of the others.

    Founders are scored once more, at birth; and each of their auditions ends by itself.
    """
    n_auditions = configuration.n_auditions
    in_audition = _scored_epochs(configuration, configuration.n_epochs // n_auditions)
    n_more = 1 + n_auditions * in_audition - _scored_epochs(configuration)
    return configuration.population_size * n_more


def _measure(patient: Patient) -> Measured:
    cohort, workshop = patient.cohorts[0], patient.workshop
    # What the longest of them took is known: only short epochs are timed again.
    epoch = cohort.training_seconds
    if epoch < _ENOUGH_SECONDS:
        training = workshop.begin(cohort.individuals)[1]
        epoch = _median(patient, lambda: training.train_epoch(0))
    evaluation = _median(patient, lambda: workshop.score(cohort.weights))
    n_offspring = min(patient.configuration.n_offspring, patient.configuration.cohort_size)
    if patient.why_scored_by_row is not None:
        n_offspring = min(n_offspring, _N_OFFSPRING)
    seconds = 0.0
    if n_offspring:
        offspring = patient.offspring(n_offspring)
        seconds = _median(patient, lambda: workshop.evaluate(offspring, best_fitness=-math.inf))
    n_rows = len(cohort.spent)
    return Measured(
        epoch=epoch,
        evaluation=evaluation,
        offspring=seconds / max(1, n_offspring),
        n_gradients=sum(one.n_gradients for one in cohort.spent) / n_rows,
        n_forwards=sum(one.n_forwards for one in cohort.spent) / n_rows,
    )


def _median(patient: Patient, work: Callable[[], object]) -> float:
    """Seconds of one time; long work is done once."""
    times: list[float] = []
    while sum(times) < _ENOUGH_SECONDS and len(times) < _MOST_REPEATS:
        watch = Stopwatch(patient.device)
        work()
        times.append(watch.seconds())
    return statistics.median(times)


def _advice(patient: Patient, measured: Measured, scoring: float, breeding: float) -> str:
    configuration = patient.configuration
    n_cohorts = len(cohorts(configuration, configuration.population_size))
    if not measured.n_gradients:
        return (
            "train_epoch took no step of its optimizer and reports no gradients: nothing is "
            "trained, or it steps an optimizer of its own, which cannot evolve."
        )
    if patient.n_workers > n_cohorts:
        return (
            f"Only {n_cohorts} workers can train at the same time: choose a smaller cohort_size "
            f"than {configuration.cohort_size}, or fewer workers."
        )
    if scoring > _MUCH and breeding > scoring / 2:
        return (
            "More time goes into offspring than into training: fewer of them (n_offspring), more "
            "epochs per generation (n_epochs), or fewer validation examples."
        )
    if scoring > _MUCH:
        return (
            "More time goes into evaluation than into training: fewer validation examples, or a "
            "larger evaluation_batch_size."
        )
    return ""


def _with(n_workers: int) -> str:
    return f" with {n_workers} workers as fast as this process" if n_workers > 1 else ""


def duration(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    units = (("days", 86400.0), ("hours", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))
    for name, size in units:
        if seconds >= size * (2 if size >= 60 else 1):
            return f"{seconds / size:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"
