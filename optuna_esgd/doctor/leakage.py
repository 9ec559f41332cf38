"""Do validation examples also occur among the training examples?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import xxhash
from torch import Tensor

from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.trainer.supervised import SupervisedTask

_NAME = "data kept apart"
# Fewer bytes than this can be equal by chance: a few columns of small numbers.
_FEW_BYTES = 16
# A share of the validation examples that hardly moves their mean.
_HARMLESS = 0.01


def examine_leakage(patient: Patient) -> Finding:
    """Look for validation inputs that are, byte by byte, also training inputs."""
    task = patient.task
    if not isinstance(task, SupervisedTask):
        return _not_examined("the task has a loop of its own, and its data is not seen from here")
    if task.train.tensors is None or task.validation.tensors is None:
        return _not_examined("examples are a Dataset that is asked for each item, not tensors")
    (seen, seen_targets), (held, held_targets) = task.train.tensors, task.validation.tensors
    inputs = set(_digests(seen))
    n_held = len(held)
    found = [row for row, digest in enumerate(_digests(held)) if digest in inputs]
    numbers = {"validation examples": n_held, "also in training": len(found)}
    if not found:
        return Finding(
            examination=_NAME,
            severity="ok",
            found=f"None of {n_held} validation inputs is among the {len(seen)} training inputs.",
            numbers=numbers,
        )
    pairs = set(zip(_digests(seen), _digests(seen_targets), strict=True))
    held_pairs = list(zip(_digests(held), _digests(held_targets), strict=True))
    n_pairs = sum(held_pairs[row] in pairs for row in found)
    numbers["with the same target"] = n_pairs
    is_coarse = held[0].numel() * held.element_size() < _FEW_BYTES
    by_chance = " Inputs are so small here that some may be equal by chance." if is_coarse else ""
    return Finding(
        examination=_NAME,
        severity="advice" if len(found) > _HARMLESS * n_held else "ok",
        found=f"{len(found)} of {n_held} validation inputs ({len(found) / n_held:.1%}) are also "
        f"training inputs, {n_pairs} of them with the same target.",
        advice="Fitness then rewards memory: the guarantee holds, but for a number that says too "
        f"much. Remove duplicates before you split.{by_chance}",
        numbers=numbers,
    )


def _digests(examples: Tensor) -> Iterator[int]:
    """One number per example, from its bytes."""
    rows = examples.detach().cpu().contiguous().reshape(len(examples), -1).view(torch.uint8)
    for row in rows.numpy():
        yield xxhash.xxh3_64_intdigest(row.data)


def _not_examined(reason: str) -> Finding:
    return Finding(examination=_NAME, severity="ok", found=f"Not examined: {reason}.")
