from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.sampling import OddballSampler


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def locate(importance_weights: bool) -> float:
    """The location of {0, 0, 0, 1} by squared loss, its batches drawn by |error|."""
    targets = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    sampler = OddballSampler(
        4, 50, floor=1e-9, importance_weights=importance_weights, generator=seeded()
    )
    x, tail = torch.tensor(0.5, dtype=torch.float64), []
    for step in range(3000):
        sampler.update([0, 1, 2, 3], (x - targets).abs())
        for indices in sampler:
            residuals = x - targets[indices]
            gradient = (sampler.weights(indices) * residuals).mean()
        x = x - 0.05 * gradient
        if step >= 500:
            tail.append(float(x))
    return sum(tail) / len(tail)


def test_it_changes_what_is_minimised() -> None:
    assert locate(False) == pytest.approx(1 / (1 + math.sqrt(3)), abs=0.005)


def test_importance_weights_change_it_back() -> None:
    assert locate(True) == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_probabilities_are_in_proportion(alpha: float) -> None:
    sampler = OddballSampler(3, 1, floor=0.5, alpha=alpha)
    sampler.update([0, 1, 2], torch.tensor([0.0, -1.0, 3.0]))
    shares = torch.tensor([0.0**alpha + 0.5, 1.5, 3.0**alpha + 0.5], dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities(), shares / shares.sum())


def test_draws_follow_the_probabilities() -> None:
    sampler = OddballSampler(4, 1000, generator=seeded())
    sampler.update([0, 1, 2, 3], torch.tensor([0.0, 1.0, 2.0, 5.0]))
    counts = torch.zeros(4)
    for _ in range(100):
        for indices in sampler:
            counts += torch.bincount(torch.tensor(indices), minlength=4)
    torch.testing.assert_close(
        counts / counts.sum(), sampler.probabilities().float(), rtol=0, atol=6e-3
    )


def test_errors_count_from_the_next_batch_on() -> None:
    sampler = OddballSampler(1000, 10, floor=1e-12, generator=seeded())
    batches = iter(sampler)
    next(batches)
    sampler.update(list(range(1000)), torch.eye(1000)[7])
    assert next(batches) == [7] * 10


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20), st.floats(1e-6, 10), st.data())
def test_the_weighted_mean_is_unbiased(
    errors: list[float], floor: float, data: st.DataObject
) -> None:
    n = len(errors)
    alpha = data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    sampler = OddballSampler(n, 2, floor, alpha, importance_weights=True)
    sampler.update(list(range(n)), torch.tensor(errors, dtype=torch.float64))
    weights = sampler.weights(list(range(n)))
    torch.testing.assert_close(
        sampler.probabilities() * weights, torch.full((n,), 1 / n, dtype=torch.float64)
    )


def test_a_pass_has_as_many_full_batches_as_cover_the_examples() -> None:
    sampler = OddballSampler(10, 4)
    assert len(sampler) == 3
    assert [len(indices) for indices in sampler] == [4, 4, 4]


def test_it_drives_a_data_loader_and_repeats_with_its_generator() -> None:
    dataset = TensorDataset(torch.arange(10))
    passes = [
        [batch[0].tolist() for batch in DataLoader(dataset, batch_sampler=sampler)]
        for sampler in (OddballSampler(10, 4, generator=seeded(3)) for _ in range(2))
    ]
    assert passes[0] == passes[1]


def test_a_diverged_network_draws_evenly_and_one_wild_error_does_not_take_all() -> None:
    sampler = OddballSampler(3, 1)
    sampler.update([0, 1, 2], torch.full((3,), math.nan))
    assert sampler.probabilities().tolist() == pytest.approx([1 / 3] * 3)
    sampler.update([0, 1, 2], torch.tensor([1.0, 3.0, math.inf]))
    assert sampler.probabilities().tolist() == pytest.approx([1 / 7, 3 / 7, 3 / 7], rel=1e-3)


def test_of_an_example_drawn_twice_the_last_error_stays() -> None:
    sampler = OddballSampler(2, 1, floor=1e-12)
    sampler.update([1, 0, 1], torch.tensor([9.0, 1.0, 3.0]))
    assert sampler.probabilities().tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n must be a whole number >= 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number >= 1, got 2.5"),
        ({"floor": 0.0}, "floor must be finite and above 0"),
        ({"floor": math.inf}, "got inf"),
        ({"alpha": -1.0}, "alpha must be finite and 0 or more, got -1.0"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        OddballSampler(**{"n": 4, "batch_size": 2, **arguments})


@pytest.mark.parametrize(
    ("indices", "words"),
    [([0, 1], "2.* indices and .*1.* errors"), ([4], "examples 0 to 3"), ([-1], "0 to 3")],
)
def test_refuses_errors_of_nobody(indices: list[int], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        OddballSampler(4, 2).update(indices, torch.ones(1))
