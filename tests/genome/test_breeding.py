"""Intermediate recombination: the mean of the parents, mutated; the same bits in any company."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optuna_esgd.draws import PIECE
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.genome import breeding, compiled_breeding
from optuna_esgd.genome.breeding import breed
from optuna_esgd.genome.compiled_breeding import find_recombination
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.native.recombination import build_recombination
from tests.genome.networks import CASES, Convolutional, Mixed, assert_same_bits, filled_matrix
from tests.native.builds import needs_compiler

# Of rows, up to and beyond the ends of words and pieces.
WIDTHS = {f"{n} weights": n for n in (1, 2, 7, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5)}
PINNED = [
    1.3580999374389648,
    1.0359004735946655,
    0.051328010857105255,
    4.018584728240967,
    6.184784412384033,
]


def assert_same_rows(ours: Matrix, our_row: int, theirs: Matrix, their_row: int) -> None:
    for key, block in ours.blocks.items():
        assert_same_bits(block[our_row], theirs.blocks[key][their_row])


def plain_matrix(n_rows: int, n_weights: int, dtype: torch.dtype = torch.float32) -> Matrix:
    return filled_matrix(lambda: nn.Linear(n_weights, 1, bias=False, dtype=dtype), n_rows)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rho", [1, 2, 3])
def test_without_noise_it_is_the_mean(name: str, rho: int) -> None:
    pool = filled_matrix(CASES[name].build, 5)
    parents = [[(3 * i + j) % 5 for j in range(rho)] for i in range(4)]
    offspring = breed(pool, parents, scales=[0.0] * 4, seeds=range(4))
    for row, family in enumerate(parents):
        tensors = [pool.read_row(parent) for parent in family]
        for name_, tensor in offspring.read_row(row).items():
            if tensor.is_floating_point():
                mean = torch.stack([one[name_].double() for one in tensors]).mean(0)
                torch.testing.assert_close(tensor.double(), mean, atol=1e-6, rtol=1e-6)
            else:
                assert torch.equal(tensor, tensors[0][name_])


@given(st.integers(0, 2**63 - 1), st.integers(1, 4), st.floats(1e-6, 10.0))
def test_one_by_one_equals_all_at_once(seed: int, rho: int, scale: float) -> None:
    pool = filled_matrix(Mixed, 5)
    parents = [[(i + 2 * j) % 5 for j in range(rho)] for i in range(6)]
    scales = [scale * (i % 3) for i in range(6)]  # every third one without noise
    seeds = [(seed + i) % 2**63 for i in range(6)]
    together = breed(pool, parents, scales=scales, seeds=seeds)
    for i in (0, 1, 5):
        alone = breed(pool, [parents[i]], scales=[scales[i]], seeds=[seeds[i]])
        assert_same_rows(alone, 0, together, i)
    backwards = breed(pool, parents[::-1], scales=scales[::-1], seeds=seeds[::-1])
    for i in range(6):
        assert_same_rows(backwards, 5 - i, together, i)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_large_rows_do_not_depend_on_company_or_threads(
    dtype: torch.dtype, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_weights = 2 * PIECE + 37
    pool = plain_matrix(4, n_weights, dtype)
    parents, scales, seeds = [[0, 1], [2, 3], [3, 0]], [0.1, 0.2, 0.3], [1, 2, 3]
    together = breed(pool, parents, scales=scales, seeds=seeds)
    n_before = torch.get_num_threads()
    monkeypatch.setattr(breeding, "_N_COLUMNS_CPU", 2 * PIECE)  # two pieces of noise at a time
    try:
        torch.set_num_threads(n_threads)
        divided = breed(pool, parents, scales=scales, seeds=seeds)
    finally:
        torch.set_num_threads(n_before)
    for row in range(3):
        assert_same_rows(divided, row, together, row)


@needs_compiler
@pytest.mark.parametrize("rho", [1, 2, 3])
@pytest.mark.parametrize("name", [*CASES, *WIDTHS])
def test_with_a_compiler_and_without_the_bits_are_the_same(
    name: str, rho: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = plain_matrix(5, WIDTHS[name]) if name in WIDTHS else filled_matrix(CASES[name].build, 5)
    for block in pool.trainable():
        block[3, 0] = -0.0
        block[4] = 2.0 * torch.finfo(block.dtype).tiny / 3  # subnormal, and so are means with it
    parents = [[(i + 2 * j) % 5 for j in range(rho)] for i in range(7)]
    scales = [0.3, 0.3, 0.0, 0.0, 1e-3, 0.3, 0.3]
    seeds = [0, 1, 2, 3, 2**63 - 1, 2**40, 6]
    compiled = breed(pool, parents, scales=scales, seeds=seeds)
    assert find_recombination() is not None
    monkeypatch.setattr(breeding, "find_recombination", lambda: None)
    by_tensors = breed(pool, parents, scales=scales, seeds=seeds)
    for row in range(len(parents)):
        assert_same_rows(compiled, row, by_tensors, row)


class Contracting:
    """A program that rounds once where it should round twice."""

    def __init__(self, right: Any) -> None:
        self._right = right

    def breed(
        self, pool: torch.Tensor, families: Any, seeds: Any, *, out: torch.Tensor, **given: Any
    ) -> None:
        self._right.breed(pool, families, seeds, out=out, **given)
        out[0, 1:3] = ((pool[0, 1:3].double() + pool[1, 1:3].double()) / 2).float()


@needs_compiler
def test_a_program_with_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = build_recombination()
    assert not isinstance(right, str)
    assert compiled_breeding._agrees(right)
    wrong: Any = Contracting(right)
    assert not compiled_breeding._agrees(wrong)
    monkeypatch.setattr(compiled_breeding, "build_recombination", lambda: wrong)
    assert find_recombination.__wrapped__() is None


def test_noise_has_the_scale_and_is_independent() -> None:
    n = 200_000
    pool = plain_matrix(2, n)
    pool.parameters()["weight"].zero_()
    offspring = breed(pool, [[0, 1]] * 3, scales=[0.5, 2.0, 0.5], seeds=[1, 2, 3])
    noise = offspring.blocks[torch.float32] / torch.tensor([[0.5], [2.0], [0.5]])
    tolerance = 6 / math.sqrt(n)
    assert noise.mean(1).abs().max() < tolerance
    assert (noise.std(1) - 1).abs().max() < tolerance
    assert (noise.pow(4).mean(1) - 3).abs().max() < 10 * tolerance
    correlations = torch.corrcoef(noise)
    assert (correlations - torch.eye(3)).abs().max() < tolerance
    lagged = (noise[:, 1:] * noise[:, :-1]).mean(1)
    assert lagged.abs().max() < tolerance


def test_noise_goes_to_trainable_parameters_only() -> None:
    pool = filled_matrix(Convolutional, 3)
    pool.buffers()["features.1.running_mean"].normal_()
    with_noise = breed(pool, [[0, 1]], scales=[0.3], seeds=[7])
    without = breed(pool, [[0, 1]], scales=[0.0], seeds=[7])
    for name in pool.parameters():
        assert not with_noise.read_row(0)[name].eq(without.read_row(0)[name]).any()
    for name in (*pool.frozen(), *pool.buffers()):
        assert_same_bits(with_noise.read_row(0)[name], without.read_row(0)[name])


@pytest.mark.parametrize("rho", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_where_parents_agree_nothing_changes(rho: int, dtype: torch.dtype) -> None:
    pool = plain_matrix(1, 1000, dtype)
    offspring = breed(pool, [[0] * rho], scales=[0.0], seeds=[0])
    assert_same_rows(offspring, 0, pool, 0)


@pytest.mark.parametrize("rho", [2, 3])
def test_the_smallest_weights_and_the_largest_buffers_stay_where_parents_agree(rho: int) -> None:
    def build() -> nn.Module:
        model = nn.Linear(3, 1, bias=False)
        model.weight.data[0] = torch.tensor([1e-45, -4.2e-45, 1.2e-38])
        model.register_buffer("mask", torch.tensor([torch.finfo(torch.float32).min, 3e38]))
        return model

    pool = filled_matrix(build, 1)
    pool.take_from(build(), 0)
    offspring = breed(pool, [[0] * rho], scales=[0.0], seeds=[0])
    assert_same_rows(offspring, 0, pool, 0)


def test_two_parents_meet_halfway_to_the_last_bit() -> None:
    pool = plain_matrix(2, 1000)
    pool.parameters()["weight"][:, 0, :3] = torch.tensor([[4.2e-45, 1e-45, 1.0], [0.0, 0.0, 3.0]])
    bred = breed(pool, [[0, 1]], scales=[0.0], seeds=[0]).parameters()["weight"][0]
    first, second = pool.parameters()["weight"].double()
    # Sum and half in double precision are exact, so this rounds once; but subnormal sums halve to
    # the nearest even one, as everywhere.
    assert torch.equal(bred[0, 3:], ((first + second).float() / 2)[0, 3:])
    assert bred[0, :3].tolist() == [torch.tensor(2.8e-45).item(), 0.0, 2.0]


def test_without_noise_a_single_parent_is_copied_bit_by_bit() -> None:
    pool = plain_matrix(1, 4)
    pool.parameters()["weight"][0, 0] = torch.tensor([-0.0, math.inf, math.nan, 1e-42])
    offspring = breed(pool, [[0]], scales=[0.0], seeds=[0])
    assert_same_rows(offspring, 0, pool, 0)
    offspring.parameters()["weight"].zero_()
    assert pool.parameters()["weight"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rho", [1, 2, 3])
def test_infinite_buffers_that_all_parents_have_stay(rho: int, dtype: torch.dtype) -> None:
    """Such as the mask of a transformer."""

    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        model.register_buffer("other", torch.tensor([math.inf, 1.0, -2.0]))
        return model.to(dtype)

    pool = filled_matrix(build, 3)
    for row in range(3):
        pool.take_from(build(), row)
    offspring = breed(pool, [list(range(rho))], scales=[0.1], seeds=[0])
    for name in ("mask", "other"):
        assert_same_bits(offspring.buffers()[name][0], pool.buffers()[name][0])


def test_half_precision_is_averaged_in_float32() -> None:
    pool = plain_matrix(2, 1, torch.float16)
    pool.parameters()["weight"].fill_(60_000.0)  # the sum is beyond float16
    offspring = breed(pool, [[0, 1]], scales=[0.0], seeds=[0])
    assert offspring.parameters()["weight"].item() == pool.parameters()["weight"][0].item()


def test_diverged_parents_stay_visible() -> None:
    pool = plain_matrix(2, 3)
    pool.parameters()["weight"][1] = math.nan
    offspring = breed(pool, [[0, 1], [0, 0]], scales=[0.1, 0.1], seeds=[0, 1])
    assert offspring.blocks[torch.float32][0].isnan().all()
    assert offspring.blocks[torch.float32][1].isfinite().all()


def test_parents_may_be_a_tensor_and_the_pool_is_left_alone() -> None:
    pool = filled_matrix(Mixed, 3)
    before = pool.clone()
    offspring = breed(pool, torch.tensor([[0, 1], [2, 1]]), scales=[0.1, 0.1], seeds=[5, 6])
    listed = breed(pool, [[0, 1], [2, 1]], scales=[0.1, 0.1], seeds=[5, 6])
    for row in range(3):
        assert_same_rows(pool, row, before, row)
    for row in range(2):
        assert_same_rows(offspring, row, listed, row)


def test_no_offspring() -> None:
    assert breed(filled_matrix(Mixed, 1), [], scales=[], seeds=[]).n_rows == 0


def test_breeds_into_a_given_matrix() -> None:
    pool = filled_matrix(Mixed, 3)
    made = breed(pool, [[0, 1], [2, 1]], scales=[0.1, 0.0], seeds=[5, 6])
    given_matrix = filled_matrix(Mixed, 4, seed=9)
    untouched = given_matrix.clone()
    returned = breed(
        pool, [[0, 1], [2, 1]], scales=[0.1, 0.0], seeds=[5, 6], out=given_matrix.rows(range(1, 3))
    )
    for row in range(2):
        assert_same_rows(given_matrix, 1 + row, made, row)
        assert_same_rows(returned, row, made, row)
    for row in (0, 3):
        assert_same_rows(given_matrix, row, untouched, row)
    with pytest.raises(ConfigurationError, match=r"2 offspring need .* got 4 rows"):
        breed(pool, [[0, 1], [2, 1]], scales=[0.1, 0.0], seeds=[5, 6], out=given_matrix)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_the_bits_are_pinned(is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version that breeds otherwise would continue a study with other offspring."""
    if not is_compiled:
        monkeypatch.setattr(breeding, "find_recombination", lambda: None)
    pool = plain_matrix(2, 5)
    pool.parameters()["weight"].copy_(torch.tensor([[[1.0, 2, 3, 4, 5]], [[1.5, 0, -3, 4, 8]]]))
    offspring = breed(pool, [[0, 1]], scales=[0.25], seeds=[2**62 + 1])
    assert offspring.parameters()["weight"].flatten().tolist() == PINNED


def test_a_model_without_gradients_to_track() -> None:
    pool = filled_matrix(Mixed, 2)
    offspring = breed(pool, [[0, 1]], scales=[0.1], seeds=[0])
    assert not any(block.requires_grad for block in offspring.blocks.values())
    assert offspring.layout == Layout.of(Mixed())


@pytest.mark.parametrize(
    ("parents", "scales", "seeds", "words"),
    [
        ([[0, 3]], [0.1], [0], "no parent in row 3 of a pool of 3"),
        ([[-1]], [0.1], [0], "no parent in row -1"),
        ([[0], [0, 1]], [0.1, 0.1], [0, 1], "same number of parents"),
        ([[]], [0.1], [0], "at least one"),
        ([[0]], [0.1, 0.2], [0], "1 offspring, 2 scales and 1 seeds"),
        ([[0]], [0.1], [], "1 offspring, 1 scales and 0 seeds"),
        ([[0]], [-0.1], [0], ">= 0, got -0.1"),
        ([[0]], [math.nan], [0], "finite"),
        ([[0]], [math.inf], [0], "finite"),
    ],
)
def test_refuses(
    parents: list[list[int]], scales: list[float], seeds: list[int], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        breed(filled_matrix(Mixed, 3), parents, scales=scales, seeds=seeds)
