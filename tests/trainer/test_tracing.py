"""What is called often is replayed from its operations: faster, and the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import optuna_esgd as esgd
from optuna_esgd.store.opening import find_population
from optuna_esgd.trainer import batched_model
from optuna_esgd.trainer.batched_model import BatchedModel
from optuna_esgd.trainer.tracing import Replayed
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_batched import BATCHED


class Counted:
    """A function that knows how often its Python has run."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, named: dict[str, Tensor], factor: Tensor) -> tuple[dict[str, Tensor], Any]:
        self.n_calls += 1
        return {name: one.sin() * factor for name, one in named.items()}, [factor.exp()]


def test_after_some_calls_python_is_left_out() -> None:
    function = Counted()
    replayed = Replayed(function, n_calls=3)
    for number in range(10):
        named, factor = {"a": torch.randn(4, 3), "b": torch.randn(2)}, torch.tensor(float(number))
        expected = Counted()(named, factor)
        found, [exponential] = replayed(named, factor)
        assert found.keys() == named.keys()
        for name, one in found.items():
            assert torch.equal(one, expected[0][name])
        assert torch.equal(exponential, expected[1][0])
    assert function.n_calls == 3 + 2  # traced and compared in the fourth call


def test_other_shapes_types_and_strides_are_traced_anew() -> None:
    function = Counted()
    replayed = Replayed(function, n_calls=0)
    factor = torch.tensor(2.0)
    for given in (
        torch.randn(3, 4),
        torch.randn(4, 4),
        torch.randn(4, 3).T,
        torch.ones(3, 4).double(),
    ):
        n_before = function.n_calls
        for _ in range(2):
            assert torch.equal(replayed({"a": given}, factor)[0]["a"], given.sin() * factor)
        assert function.n_calls == n_before + 2


def test_what_changes_from_call_to_call_is_called_as_it_is() -> None:
    steps = iter(range(100))
    replayed = Replayed(lambda x: x * next(steps), n_calls=2)
    ones = torch.ones(1)
    values = [float(replayed(ones)) for _ in range(8)]
    assert values == sorted(set(values))


def test_what_cannot_be_traced_is_called_as_it_is() -> None:
    replayed = Replayed(lambda x: x if x.sum() > 0 else -x, n_calls=0)
    assert [float(replayed(torch.tensor([sign]))) for sign in (1.0, -2.0, 3.0)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "share",
    [
        lambda x, keep: x[keep].sum() / x[keep].numel(),
        lambda x, keep: x.sum() / keep.tolist().count(True),
        lambda x, keep: x.sum() / float(keep.sum()),
    ],
)
def test_what_depends_on_numbers_outside_tensors_is_called_as_it_is(share: Any) -> None:
    """Even if it gives the same when it is traced and right after."""
    replayed = Replayed(share, n_calls=0)
    x = torch.arange(4.0)
    for keep in ([1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]):
        mask = torch.tensor(keep, dtype=torch.bool)
        assert torch.equal(replayed(x, mask), share(x, mask))


def test_not_a_number_is_the_same_as_itself() -> None:
    n_calls = 0

    def divide(x: Tensor) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        return x / 0

    replayed = Replayed(divide, n_calls=0)
    for _ in range(3):
        assert replayed(torch.zeros(2)).isnan().all()
    assert n_calls == 2


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "float32") for name in BATCHED), ("mlp", "bfloat16"), ("dropout", "bfloat16")],
)
def test_a_population_trains_to_the_same_bits(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    for n_calls in (0, 10**9):
        made: list[BatchedModel] = []

        def make(
            *arguments: Any,
            made: list[BatchedModel] = made,
            wanted: int = n_calls,
            n_calls: int = n_calls,
        ) -> BatchedModel:
            del n_calls  # what a workshop asks for
            made.append(BatchedModel(*arguments, n_calls=wanted))
            return made[-1]

        monkeypatch.setattr(batched_model, "BatchedModel", make)
        study = make_study(seed=1)
        task = make_task(name, precision=precision)
        study.optimize(esgd.ESGDTrainer(task, backend="batched"), n_trials=12)
        everyone = find_population(study).individuals()
        ended.append([(one.weights, one.fitness) for one in everyone])
        replays = [one for model in made for one in model._replayed_gradients._replays.values()]
        assert bool(replays) == (n_calls == 0)
        assert all(replays)
    assert ended[0] == ended[1]
