"""Keyed draws: the right distributions, independent, and functions of their arguments alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optuna_esgd.draws import keyed_bits, keyed_normal, keyed_uniform

N = 200_000
KEYS = st.integers(0, 2**63 - 1)


def normal(key: int, stream: int = 0, n: int = N) -> torch.Tensor:
    return keyed_normal(torch.tensor(key), stream, torch.arange(n), torch.float64)


@pytest.mark.parametrize("key", [0, 1, 2**62 + 5])
def test_normal_has_the_moments_and_the_tails(key: int) -> None:
    x = normal(key)
    for power, moment in {1: 0.0, 2: 1.0, 3: 0.0, 4: 3.0}.items():
        spread = math.sqrt(math.prod(range(2 * power - 1, 0, -2)) - moment**2)
        assert abs((x**power).mean() - moment) < 5 * spread / math.sqrt(N)
    for bound in (0.5, 1.0, 2.0, 3.0):
        share = math.erf(bound / math.sqrt(2))
        spread = math.sqrt(share * (1 - share) / N)
        assert abs((x.abs() < bound).double().mean() - share) < 5 * spread


def test_uniform_is_even_and_never_0() -> None:
    x = keyed_uniform(torch.tensor(7), 0, torch.arange(N), torch.float32)
    assert x.min() > 0
    assert x.max() <= 1
    counts = torch.histc(x, 20, 0, 1)
    assert ((counts - N / 20) ** 2 / (N / 20)).sum() < 60  # chi-squared, 19 degrees of freedom


@pytest.mark.parametrize(("key", "stream"), [(1, 0), (0, 1), (2**32, 0), (0, 2**20)])
def test_other_keys_and_streams_are_unrelated(key: int, stream: int) -> None:
    assert abs(torch.corrcoef(torch.stack([normal(0), normal(key, stream)]))[0, 1]) < 5 / N**0.5


def test_neighbouring_places_are_unrelated() -> None:
    x = normal(3)
    assert abs(torch.corrcoef(torch.stack([x[1:], x[:-1]]))[0, 1]) < 5 / N**0.5


@given(keys=st.lists(KEYS, min_size=1, max_size=4), stream=st.integers(0, 2**21))
def test_batched_in_part_and_mapped_are_the_same(keys: list[int], stream: int) -> None:
    column, places = torch.tensor(keys).unsqueeze(1), torch.arange(50)
    together = keyed_bits(column, stream, places)
    mapped = vmap(lambda key: keyed_bits(key, stream, places))(column.squeeze(1))
    assert torch.equal(mapped, together)
    for row, key in enumerate(keys):
        part = keyed_bits(torch.tensor(key), stream, places[20:30])
        assert torch.equal(part, together[row, 20:30])
    assert together.min() >= 0
    assert together.max() < 2**32
