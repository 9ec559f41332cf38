"""Global generators within a block, and after it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.trainer.seeding import seeded
from tests.trainer.studies import make_study


@pytest.mark.parametrize("has_accelerator", [False, True])
def test_a_block_draws_what_its_seed_says(
    has_accelerator: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_accelerator)
    torch.manual_seed(7)
    expected = torch.rand(3)
    with seeded(7):
        assert torch.equal(torch.rand(3), expected)
        with seeded(7):
            assert torch.equal(torch.rand(3), expected)


def test_the_caller_draws_as_if_nothing_had_been() -> None:
    def fail() -> None:
        with seeded(5):
            torch.rand(3)
            raise ZeroDivisionError

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.rand(2), expected)


def draw_everywhere() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_numpy_and_random_are_seeded_too() -> None:
    with seeded(2**40 + 3):
        drawn = draw_everywhere()
    expected = draw_everywhere()
    with seeded(2**40 + 3):
        assert draw_everywhere() == drawn
    assert draw_everywhere() != expected
    with seeded(2**40 + 4):
        assert not set(draw_everywhere()) & set(drawn)


def test_the_callers_generators_go_on() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = draw_everywhere()[:2]
    random.seed(1)
    np.random.seed(1)
    with seeded(9):
        draw_everywhere()
    assert draw_everywhere()[:2] == expected


class Augmented(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = np.random.randn(2) + random.random()
        inputs = torch.as_tensor(index / 12 + 0.1 * noise, dtype=torch.float32)
        return inputs, inputs.sum(0, keepdim=True)


def test_a_dataset_that_augments_by_numpy_repeats() -> None:
    inputs = torch.linspace(-1, 1, 8)[:, None].expand(8, 2)
    task = esgd.SupervisedTask(
        model=lambda: torch.nn.Linear(2, 1),
        loss=torch.nn.functional.mse_loss,
        train=Augmented(),
        validation=(inputs, inputs.sum(1, keepdim=True)),
        batch_size=4,
    )
    values = []
    for _ in range(2):
        study = make_study()
        study.optimize(esgd.ESGDTrainer(task), n_trials=8)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]


def test_threads_take_turns() -> None:
    def draw(seed: int) -> list[float]:
        with seeded(seed):
            return [float(torch.rand(())) for _ in range(200)]

    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(draw, [0, 1, 2, 3] * 5))
    assert drawn == [draw(seed) for seed in [0, 1, 2, 3] * 5]
