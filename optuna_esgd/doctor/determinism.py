"""Do the same weights get the same fitness, whatever happens around them?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from optuna_esgd.doctor.differences import Difference, difference, rounding
from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.task import check_fitness

_NAME = "same weights, same fitness"
_OTHER_SEED = 20_000_003
_MOST_ALONE = 3


def examine_determinism(patient: Patient) -> Finding:
    """Score the same weights under all conditions a run has them scored under."""
    rows = patient.few
    first = patient.workshop.score(rows)
    found = {name: difference(first, scores) for name, scores in _again(patient, rows)}
    found["one by one"] = difference(first[:_MOST_ALONE], _one_by_one(patient, rows))
    limit = rounding(patient.task)
    broken = {name: one for name, one in found.items() if one.relative > limit}
    # Cohorts are fixed: how a row is rounded may depend on how many there are.
    rounded = {
        name: one
        for name, one in found.items()
        if one.largest > 0 and name not in broken and name != "one by one"
    }
    n_founders, alone = rows.n_rows, found["one by one"].largest
    conditions = ", ".join(name for name, one in found.items() if not one.largest)
    numbers = {f"largest difference {name}": one.largest for name, one in found.items()}
    if broken:
        return Finding(
            examination=_NAME,
            severity="broken",
            found=f"Scored again, the weights of {n_founders} founders do not keep their fitness: "
            f"{_list(broken)}.",
            advice="Selection would keep whoever was lucky. Evaluate on fixed data in a fixed "
            "order without augmentation, draw nothing at random (or from generators that fitness "
            "itself makes and seeds), and keep no counters or caches in the task or the model.",
            numbers=numbers,
        )
    if rounded:
        return Finding(
            examination=_NAME,
            severity="advice",
            found=f"The fitness of {n_founders} founders is the same but for rounding: "
            f"{_list(rounded)}.",
            advice="The guarantee holds for the fitness that is measured; the same seed may not "
            "give the same bits. torch.use_deterministic_algorithms(True) in your file helps.",
            numbers=numbers,
        )
    return Finding(
        examination=_NAME,
        severity="ok",
        found=f"{n_founders} founders kept their fitness to the last bit when scored "
        f"{conditions}{f'; one by one but for rounding ({alone:.2g})' if alone else ''}.",
        numbers=numbers,
    )


def examine_randomness(patient: Patient) -> Finding:
    """Score a model with global generators seeded otherwise than the run does.

    A run seeds torch, NumPy and ``random`` before every evaluation, so what is drawn there is
    always the same; it is then the fitness of one draw, not of the model.
    """
    name = "no chance in evaluation"
    n_rows = min(_MOST_ALONE, patient.weights.n_rows)
    seed = patient.configuration.seed
    found = difference(
        [_fitness(patient, row, seed) for row in range(n_rows)],
        [_fitness(patient, row, seed + _OTHER_SEED) for row in range(n_rows)],
    )
    if found.relative <= rounding(patient.task):
        return Finding(
            examination=name,
            severity="ok",
            found="Evaluation draws no random numbers from torch, NumPy or random that matter.",
            numbers={"largest difference": found.largest},
        )
    return Finding(
        examination=name,
        severity="advice",
        found=f"Fitness depends on random numbers: with another seed it moves {found.in_words}.",
        advice="Runs seed torch, NumPy and random before each evaluation, so the guarantee holds, "
        "but for one draw: the population learns to be good at it. Turn dropout and sampling off "
        "in evaluation mode (look for training=True in calls of dropout).",
        numbers={"largest difference": found.largest},
    )


def _again(patient: Patient, rows: Matrix) -> Iterator[tuple[str, list[float]]]:
    """Names of conditions, and fitness by row under each."""
    workshop = patient.workshop
    yield "again", workshop.score(rows)
    yield "in reverse order", _reversed(workshop.score, rows)
    with seeded(_OTHER_SEED):
        yield "with other random seeds", workshop.score(rows)
    patient.say("training an epoch between two evaluations")
    workshop.begin(patient.few_to_train)[1].train_epoch(0)
    yield "after training", workshop.score(rows)
    yield "by another worker", patient.another_worker().score(rows)


def _one_by_one(patient: Patient, rows: Matrix) -> list[float]:
    n_rows = min(_MOST_ALONE, rows.n_rows)
    return [patient.workshop.score(rows.rows(range(row, row + 1)))[0] for row in range(n_rows)]


def _reversed(score: Callable[[Matrix], list[float]], rows: Matrix) -> list[float]:
    turned = rows.clone()
    turned.copy_rows(rows, range(rows.n_rows), range(rows.n_rows)[::-1])
    return score(turned)[::-1]


def _fitness(patient: Patient, row: int, seed: int) -> float:
    model = patient.model(row).eval()
    with torch.no_grad(), seeded(seed):
        value = patient.task.fitness(model)
    return check_fitness(value, maximize=patient.configuration.maximize)


def _list(found: dict[str, Difference]) -> str:
    return "; ".join(f"{name} it moves {one.in_words}" for name, one in found.items())
