"""Is work that is done again the same bits: training, resumed training, breeding?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optuna_esgd.doctor.differences import difference, rounding
from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.engine.individual import Individual
from optuna_esgd.genome.dtypes import bits
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.trainer.progress import Progress, describe, resume
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.sgd import Training

_TRAINING = "same training, same bits"
_BREEDING = "bred again, the same"
_OTHER_SEED = 40_000_003
_N_OFFSPRING = 2
_SEED_ADVICE = (
    "The guarantee holds all the same; a seed does not determine the result, and neither does a "
    "worker that takes over an interrupted SGD step. "
)


def examine_training(patient: Patient) -> Finding:
    """Train founders twice from their birth, then once from a checkpoint in the middle."""
    members = patient.few_to_train
    patient.say("training two epochs twice, the second time from a checkpoint")
    first, second = _begin(patient, members), _begin(patient, members)
    with seeded(patient.configuration.seed):
        first.train_epoch(0)
    with seeded(_OTHER_SEED):
        second.train_epoch(0)
    again = _compare(patient, first, second)
    progress = [Progress(birth_fitness=0.0) for _ in members]
    checkpoint = describe(first, progress)
    first.train_epoch(1)
    resumed = _begin(patient, members)
    resume(resumed, checkpoint)
    resumed.train_epoch(1)
    taken_over = _compare(patient, first, resumed)
    numbers = {"distance again": again, "distance resumed": taken_over}
    if again or taken_over:
        what = (
            "The same epoch trained twice does not end at the same weights"
            if again
            else "An SGD step that goes on from a checkpoint ends at other weights"
        )
        return Finding(
            examination=_TRAINING,
            severity="advice",
            found=f"{what}: {again or taken_over:.2g} apart at most.",
            advice=_SEED_ADVICE
            + (
                "Derive every draw from epoch.seed (data order, augmentation, workers of a "
                "DataLoader); on a GPU see torch.use_deterministic_algorithms."
                if again
                else "The model or the task remembers something that is no parameter and no "
                "buffer: register it as a buffer, or derive it from epoch.number."
            ),
            numbers=numbers,
        )
    return Finding(
        examination=_TRAINING,
        severity="ok",
        found="An epoch trained again, and one that goes on from a checkpoint, ended at the same "
        f"weights to the last bit (founders: {len(members)}).",
        numbers=numbers,
    )


def examine_breeding(patient: Patient) -> Finding:
    """Breed offspring twice, as a run does: to score them, and again to train survivors."""
    if not patient.configuration.n_offspring:
        return Finding(examination=_BREEDING, severity="ok", found="No offspring are bred.")
    offspring = patient.offspring(_N_OFFSPRING)
    patient.say(f"breeding {len(offspring)} offspring twice")
    workshop, another = patient.workshop, patient.another_worker()
    first = workshop.births.weights(offspring)
    with seeded(_OTHER_SEED):
        second = another.births.weights(offspring)
    apart = _distance(first, second)
    numbers: dict[str, float | int | str | None] = {"distance": apart}
    if apart == 0:
        return Finding(
            examination=_BREEDING,
            severity="ok",
            found="Offspring bred a second time, by another worker, were the same to the last "
            "bit. (They are never stored: a survivor is bred again before it trains.)",
            numbers=numbers,
        )
    moved = difference(workshop.score(first), another.score(second))
    is_rounding = moved.relative <= rounding(patient.task)
    numbers["fitness moved"] = moved.largest
    return Finding(
        examination=_BREEDING,
        severity="advice" if is_rounding else "broken",
        found=f"Offspring bred a second time are not the same: {apart:.2g} apart at most; fitness "
        f"moves {moved.in_words}.",
        advice="Survivors train from other weights than were scored. Whatever calibrate(model) or "
        "a mutation of your own looks at must be fixed: no augmentation, no random batches.",
        numbers=numbers,
    )


def _begin(patient: Patient, members: Sequence[Individual]) -> Training:
    return patient.workshop.begin(members)[1]


def _compare(patient: Patient, one: Training, other: Training) -> float:
    """Distance of weights and optimizer states."""
    rows = range(len(patient.few_to_train))
    states = [
        _apart(ours, theirs)
        for row in rows
        for ours, theirs in _pairs(one.optimizer_state(row), other.optimizer_state(row))
    ]
    return max(_distance(one.weights, other.weights), *states, 0.0)


def _pairs(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(tensor, other[name]) for name, tensor in one.items() if name in other]


def _distance(one: Matrix, other: Matrix) -> float:
    """The largest difference of one weight; 0 for the same bits, NaN included."""
    return max(_apart(block, other.blocks[dtype]) for dtype, block in one.blocks.items())


def _apart(one: Tensor, other: Tensor) -> float:
    if torch.equal(bits(one.contiguous()), bits(other.contiguous())):
        return 0.0
    gap = (one.double() - other.double()).abs()
    finite = gap[gap.isfinite()]
    return float(finite.max()) if finite.numel() else torch.inf
