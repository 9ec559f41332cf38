"""Do batched training and scoring give what plain PyTorch gives, row by row?"""

from __future__ import annotations

import math

from optuna_esgd.doctor.differences import difference
from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Cohort, Patient
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.trainer.rows import RowTraining, score_rows
from optuna_esgd.trainer.seeding import build_seeded
from optuna_esgd.trainer.supervised import SupervisedTask

_SCORING = "batched scoring"
_TRAINING = "batched training"
# Of fitness; rounding makes less, another computation more.
_MOST_OF_FITNESS = 1e-3
_MOST_OF_FITNESS_BFLOAT16 = 5e-2
# Of the way an individual went in its epoch; see ``examine_batched_training``.
_MOST_OF_THE_WAY = 0.05


def examine_batched_scoring(patient: Patient) -> Finding:
    """Compare the fitness of a cohort that is scored as one with that of each row."""
    if patient.why_scored_by_row is not None:
        return _not_batched(_SCORING, "scored", patient.why_scored_by_row)
    rows = patient.few
    model = build_seeded(patient.task, patient.configuration, patient.device)
    plain = score_rows(patient.task, patient.configuration, [model], rows)
    found = difference(patient.workshop.score(rows), plain)
    is_coarse = isinstance(patient.task, SupervisedTask) and patient.task.precision == "bfloat16"
    limit = _MOST_OF_FITNESS_BFLOAT16 if is_coarse else _MOST_OF_FITNESS
    numbers = {"largest difference": found.largest, "of the fitness": found.relative}
    if found.relative <= limit:
        return Finding(
            examination=_SCORING,
            severity="ok",
            found=f"{rows.n_rows} founders scored as one computation get what plain PyTorch gives "
            f"each of them; the largest difference is {found.largest:.2g}.",
            numbers=numbers,
        )
    return Finding(
        examination=_SCORING,
        severity="broken",
        found=f"Scored as one computation, {found.n_differing} of {rows.n_rows} founders get "
        f"another fitness than task.fitness(model) gives: it moves {found.in_words}.",
        advice="What is selected for is not what you measure. A batched cohort is scored by the "
        "task's metric (or loss) in evaluation mode: a fitness of its own, or a model whose "
        "forward depends on anything but weights and inputs, needs a Task with a loop of its own.",
        numbers=numbers,
    )


def examine_batched_training(patient: Patient) -> Finding:
    """Train one founder of each species alone, and compare where it ends.

    Rounding grows along the way, all the more where training is unstable: so the distance between
    the two ends is measured in lengths of the way, and founders that got worse are left out.
    """
    if patient.why_trains_by_row is not None:
        return _not_batched(_TRAINING, "trained", patient.why_trains_by_row)
    founders = _one_of_each_species(patient)
    if not founders:
        return Finding(
            examination=_TRAINING,
            severity="ok",
            found="Not compared with plain PyTorch: every founder got worse in its first epoch, "
            "and where training is unstable rounding alone leads elsewhere.",
        )
    patient.say("training founders one by one, to compare with batched training")
    distances = {
        species: _distance(patient, cohort, row) for species, (cohort, row) in founders.items()
    }
    worst = max(distances, key=distances.__getitem__)
    numbers = {f"distance {name}": one for name, one in distances.items()}
    if distances[worst] <= _MOST_OF_THE_WAY:
        return Finding(
            examination=_TRAINING,
            severity="ok",
            found=f"{' and '.join(distances)}: after an epoch a founder trained in a cohort ends "
            f"where plain PyTorch leads it; {distances[worst]:.1g} of the way apart at most.",
            numbers=numbers,
        )
    return Finding(
        examination=_TRAINING,
        severity="advice",
        found=f"After an epoch a founder trained with {worst} in a cohort ends "
        f"{distances[worst]:.0%} of its way from where plain PyTorch leads it.",
        advice="Fitness is measured afterwards, so the guarantee holds, but training is not what "
        "you wrote. Does forward keep a state in Python (a counter, a cache), or draw random "
        "numbers other than dropout? A batched cohort shares one model: use a Task with a loop of "
        "its own for such a model.",
        numbers=numbers,
    )


def _one_of_each_species(patient: Patient) -> dict[str, tuple[Cohort, int]]:
    """Species -> a founder that got better in its epoch: its cohort, and its row there."""
    found: dict[str, tuple[Cohort, int]] = {}
    for cohort in patient.cohorts:
        for row, one in enumerate(cohort.individuals):
            if cohort.fitness[row] < cohort.birth_fitness[row]:
                found.setdefault(one.species, (cohort, row))
    return found


def _distance(patient: Patient, cohort: Cohort, row: int) -> float:
    """How far apart the ends are, as a share of the way."""
    only = range(row, row + 1)
    births = cohort.births.rows(only)
    training = RowTraining(
        patient.task,
        patient.configuration,
        patient.trainer.species,
        [cohort.individuals[row]],
        births.clone(),
        [{}],
    )
    training.train_epoch(0)
    way = _length(training.weights, births)
    return _length(training.weights, cohort.weights.rows(only)) / way if way else 0.0


def _length(one: Matrix, other: Matrix) -> float:
    """Euclidean distance of two rows in the weights that train."""
    pairs = zip(one.trainable(), other.trainable(), strict=True)
    return math.sqrt(sum(float((a - b).abs().double().square().sum()) for a, b in pairs))


def _not_batched(name: str, done: str, reason: str) -> Finding:
    """Row by row is plain PyTorch: there is nothing to compare."""
    return Finding(
        examination=name,
        severity="ok",
        found=f"Individuals are {done} one by one, in plain PyTorch: {reason.rstrip('.')}.",
        numbers={"reason": reason},
    )
