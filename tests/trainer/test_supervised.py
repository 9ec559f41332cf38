"""The declared task by itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader

import optuna_esgd as esgd
from tests.trainer.models import examples
from tests.trainer.studies import make_study, make_task

INPUTS, TARGETS = examples("mlp", 1)
N_EXAMPLES = 13


class Pairs(torch.utils.data.Dataset[Any]):
    """Items whose targets come in parts."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __len__(self) -> int:
        return N_EXAMPLES

    def __getitem__(self, index: int) -> Any:
        target = TARGETS[index]
        targets = {"dict": {"a": target, "b": target}, "tuple": (target, target, target)}
        return INPUTS[index], targets[self._kind]


def first_part(outputs: Tensor, targets: Any) -> Tensor:
    target = targets["a"] if isinstance(targets, dict) else targets[0]
    return nn.functional.cross_entropy(outputs, target)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_fitness_is_a_mean_over_examples_whatever_targets_are(kind: str) -> None:
    task = make_task(
        train=Pairs(kind), validation=Pairs(kind), loss=first_part, evaluation_batch_size=5
    )
    model = task.build_model().eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(INPUTS[:13]), TARGETS[:13]).item()
    assert task.fitness(model) == pytest.approx(expected, rel=1e-5)
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    assert task.fitness(esgd.load_best(study, task.build_model())) == study.best_value


class Named(NamedTuple):
    x: Tensor
    scale: Tensor


class OfNamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, inputs: Named) -> Tensor:
        outputs: Tensor = self.inner(inputs.x) * inputs.scale[:, None]
        return outputs


class OfPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(6, 4), nn.Linear(4, 3)

    def forward(self, inputs: PackedSequence) -> Tensor:
        outputs: Tensor = self.out(self.cell(inputs)[1][-1])
        return outputs


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, *, named: bool) -> None:
        self._named = named

    def __len__(self) -> int:
        return N_EXAMPLES

    def __getitem__(self, index: int) -> Any:
        x = INPUTS[index]
        return (Named(x, x[0]) if self._named else x[None]), TARGETS[index]


def pack(items: list[Any]) -> Any:
    return pack_sequence([x for x, _ in items]), torch.stack([y for _, y in items])


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (OfNamed, Items(named=True)),
        (OfPacked, DataLoader(Items(named=False), batch_size=4, collate_fn=pack)),
    ],
    ids=["named tuples", "packed sequences"],
)
def test_inputs_of_other_kinds(model: type[nn.Module], data: Any) -> None:
    task = make_task(model=model, train=data, validation=data, batch_size=None)
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    assert len(study.trials) == 4


def make_linear() -> nn.Module:
    return nn.Linear(6, 3)


@pytest.mark.parametrize("is_used", [False, True])
def test_trainers_can_be_copied_and_pickled(is_used: bool) -> None:
    trainer = esgd.ESGDTrainer(make_task(model=make_linear))
    if is_used:
        make_study().optimize(trainer, n_trials=4)
    for other in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        studies = [make_study() for _ in range(2)]
        for study, one in zip(studies, (trainer, other), strict=True):
            study.optimize(one, n_trials=4)
        assert [t.value for t in studies[0].trials] == [t.value for t in studies[1].trials]
