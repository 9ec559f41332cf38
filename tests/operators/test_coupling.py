from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators import ElasticCoupling


def rows(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).double()


@given(st.integers(2, 7), st.floats(1e-3, 1.0), st.integers(0, 1000))
def test_differences_shrink_and_the_mean_stays(n: int, strength: float, seed: int) -> None:
    before = [rows(n, 5, seed), rows(n, 3, seed + 1)]
    after = [block.clone() for block in before]
    ElasticCoupling(strength).pull(after)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new.mean(0), old.mean(0))
        torch.testing.assert_close(new - new[0], (1 - strength) * (old - old[0]))


def test_where_all_agree_nothing_changes() -> None:
    block = rows(1, 50).float().repeat(3, 1)
    before = block.clone()
    ElasticCoupling(0.3).pull([block])
    assert torch.equal(block, before)


def test_the_diverged_are_left_out() -> None:
    first, second = rows(4, 5), rows(4, 3)
    first[1, 2], second[2, 0] = math.nan, math.inf
    apart = [first.clone(), second.clone()]
    ElasticCoupling(0.5).pull(apart)
    alone = [first[[0, 3]].clone(), second[[0, 3]].clone()]
    ElasticCoupling(0.5).pull(alone)
    for block, pair, old in zip(apart, alone, (first, second), strict=True):
        assert torch.equal(block[[0, 3]], pair)
        assert torch.equal(block[[1, 2]].isfinite(), old[[1, 2]].isfinite())
        torch.testing.assert_close(block[[1, 2]], old[[1, 2]], equal_nan=True)


def test_one_that_is_left_stays_where_it_is() -> None:
    block = rows(2, 5)
    block[0, 0] = math.nan
    before = block[1].clone()
    ElasticCoupling(0.5).pull([block])
    assert torch.equal(block[1], before)


def test_views_of_wider_rows_are_coupled_in_place() -> None:
    padded = torch.zeros(2, 8)
    padded[0] = 2.0
    ElasticCoupling(0.5).pull([padded[:, :3]])
    assert padded[:, :3].tolist() == [[1.5] * 3, [0.5] * 3]
    assert padded[:, 3:].tolist() == [[2.0] * 5, [0.0] * 5]


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, math.nan])
def test_refuses(strength: float) -> None:
    with pytest.raises(ConfigurationError, match=r"strength must be in \(0, 1\]"):
        ElasticCoupling(strength)
