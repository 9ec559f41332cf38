"""Is the model in evaluation mode while it is scored, and does scoring leave it as it was?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.trainer.seeding import seeded

_NAME = "evaluation mode"
_MOST_NAMES = 3


def examine_evaluation_mode(patient: Patient) -> Finding:
    """Watch one evaluation: who is called in training mode, and what is changed."""
    model = patient.model(0).eval()
    tensors, plain = _tensors(model), _plain_attributes(model)
    with _training_modules(model) as training, torch.no_grad(), seeded(patient.configuration.seed):
        patient.task.fitness(model)
    after = _tensors(model)
    changed = [name for name, value in tensors.items() if not _is_same(value, after.get(name))]
    counters = [
        name for name, value in _plain_attributes(model).items() if plain.get(name, value) != value
    ]
    numbers = {"modules in training mode": len(training), "changed tensors": len(changed)}
    if changed:
        return Finding(
            examination=_NAME,
            severity="broken",
            found=f"Evaluation changes the model it scores: {_names(changed)}.",
            advice="What is stored is then not what was scored. Call model.eval() and use "
            "torch.no_grad() in fitness; batch-norm must not update its statistics there.",
            numbers=numbers,
        )
    if training:
        return Finding(
            examination=_NAME,
            severity="advice",
            found=f"While the model is scored, these are in training mode: {_names(training)}.",
            advice="Dropout is then active and batch-norm uses the batch's statistics. The model "
            "comes in evaluation mode: do not call train() in fitness or in forward.",
            numbers=numbers,
        )
    if counters:
        return Finding(
            examination=_NAME,
            severity="advice",
            found=f"Evaluation changes attributes of the model: {_names(counters)}.",
            advice="Plain attributes are not stored with an individual. If forward depends on "
            "them, register them as buffers, and change them in training only.",
            numbers=numbers,
        )
    return Finding(
        examination=_NAME,
        severity="ok",
        found="All modules are in evaluation mode while a model is scored, and are left as they "
        "were.",
        numbers=numbers,
    )


@contextlib.contextmanager
def _training_modules(model: nn.Module) -> Iterator[list[str]]:
    """The modules that are called in training mode within a block, filled in as they are."""
    found: list[str] = []

    def note(name: str, module: nn.Module, _inputs: object) -> None:
        text = f"{name or 'the model'} ({type(module).__name__})"
        if module.training and text not in found:
            found.append(text)

    hooks = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and buffers, also of those that are not stored."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def _is_same(before: Tensor, after: Tensor | None) -> bool:
    """Bit by bit; NaN is like NaN."""
    if after is None or before.shape != after.shape or before.dtype != after.dtype:
        return False
    return bool(((before == after) | ((before != before) & (after != after))).all())  # noqa: PLR0124


def _plain_attributes(model: nn.Module) -> dict[str, float]:
    """Numbers that modules keep as attributes."""
    return {
        f"{name or 'the model'}.{attribute}": value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, int | float) and attribute != "training"
    }


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
