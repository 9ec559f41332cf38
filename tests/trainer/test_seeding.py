"""torch's generators within a block, and after it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from optuna_esgd.trainer.seeding import seeded


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


def test_threads_take_turns() -> None:
    def draw(seed: int) -> list[float]:
        with seeded(seed):
            return [float(torch.rand(())) for _ in range(200)]

    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(draw, [0, 1, 2, 3] * 5))
    assert drawn == [draw(seed) for seed in [0, 1, 2, 3] * 5]
