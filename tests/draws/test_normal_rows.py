"""Rows of normals: distribution, independence, and the same bits however they are drawn."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.draws import PIECE, NormalRows, scaled_quantiles
from optuna_esgd.draws.normal_rows import _quantiles

N = 2**20 + 777
FIRST = [
    -0.09441551566123962,
    -0.44036614894866943,
    -1.0072495937347412,
    -0.5857834815979004,
    1.7305468320846558,
    -0.21668562293052673,
]
LATER = [0.6672666072845459, -0.860882580280304, 1.133145809173584]
KEYS = st.integers(0, 2**63 - 1)


def row(key: int, n: int = N, **options: float) -> torch.Tensor:
    return NormalRows().fill(torch.empty(n), key, **options)


def assert_unrelated(*rows: torch.Tensor) -> None:
    """No correlation of numbers, of squares, or of signs."""
    stacked = torch.stack(rows).double()
    for values in (stacked, stacked**2, stacked.sign()):
        correlations = torch.corrcoef(values) - torch.eye(len(rows))
        assert correlations.abs().max() < 5 / math.sqrt(stacked.shape[1])


@pytest.mark.parametrize("key", [0, 1, 2**62 + 5])
def test_the_moments_are_those_of_a_normal(key: int) -> None:
    x = row(key).double()
    for power in range(1, 7):
        moments = {k: math.prod(range(k - 1, 0, -2)) * (k % 2 == 0) for k in (power, 2 * power)}
        spread = math.sqrt(moments[2 * power] - moments[power] ** 2)
        assert abs((x**power).mean() - moments[power]) < 5 * spread / math.sqrt(N)


def test_the_distribution_passes_kolmogorov_smirnov() -> None:
    x = row(3).double().sort().values
    cumulated = torch.special.ndtr(x)
    steps = torch.arange(N + 1, dtype=torch.float64) / N
    distance = max(float((steps[1:] - cumulated).max()), float((cumulated - steps[:-1]).max()))
    assert distance < 1.95 / math.sqrt(N)  # exceeded once in a thousand streams


@pytest.mark.parametrize("bound", [2.0, 3.0, 4.0, 4.5])
def test_the_tails_are_there(bound: float) -> None:
    n_expected = N * 2 * NormalDist().cdf(-bound)
    found = int((row(8).abs() > bound).sum())
    assert abs(found - n_expected) < 5 * math.sqrt(n_expected) + 0.06 * n_expected


def test_halves_of_words_are_even() -> None:
    """The 16-bit choices behind the normals: recovered from the sums and differences."""
    n_words = PIECE // 2
    rows = torch.stack([row(key, PIECE) for key in range(64)])
    z = torch.cat((rows[:, :n_words] + rows[:, n_words:], rows[:, :n_words] - rows[:, n_words:]))
    edges = torch.from_numpy(_quantiles()).double() * 2
    counts = torch.bincount(
        torch.bucketize(z.flatten().double(), (edges[1:] + edges[:-1]) / 2) // 64, minlength=1024
    )
    expected = z.numel() / 1024
    squares = float(((counts - expected) ** 2 / expected).sum())
    assert abs(squares - 1023) < 5 * math.sqrt(2 * 1023)


@pytest.mark.parametrize("lag", [1, 2, 3, 64, PIECE // 2, PIECE, PIECE + 1])
def test_places_are_unrelated(lag: int) -> None:
    x = row(11)
    assert_unrelated(x[:-lag], x[lag:])


@pytest.mark.parametrize("other", [8, 6, 7 + 2**31, 7 + 2**32, 7 + 2**62, 0x9E3779B9 + 7])
def test_keys_are_unrelated(other: int) -> None:
    assert_unrelated(row(7), row(other))


def test_many_neighbouring_keys_are_unrelated() -> None:
    rows = torch.stack([row(key, 4096) for key in range(300)])
    deviations = (torch.corrcoef(rows) - torch.eye(300)).flatten() * math.sqrt(4096)
    assert deviations.abs().max() < 5.5
    assert abs(deviations[deviations != 0].std() - 1) < 0.02


def test_squared_lengths_of_rows_are_chi_squared() -> None:
    """Independent numbers spread their sum of squares as far as they should."""
    lengths = torch.stack([row(key, 256).double().square().sum() for key in range(2000)])
    assert abs(lengths.mean() - 256) < 5 * math.sqrt(512 / 2000)
    assert abs(lengths.var() / 512 - 1) < 5 * math.sqrt(2.1 / 2000)


@given(key=KEYS, n=st.integers(1, 3 * PIECE), first_piece=st.integers(0, 2**31))
def test_in_pieces_and_on_other_devices_the_bits_are_the_same(
    key: int, n: int, first_piece: int
) -> None:
    rows = NormalRows()
    whole = rows.fill(torch.empty(n), key, scale=0.3, first_piece=first_piece)
    pieces = [
        rows.fill(torch.empty(len(part)), key, scale=0.3, first_piece=first_piece + number)
        for number, part in enumerate(whole.split(PIECE))
    ]
    assert torch.equal(torch.cat(pieces), whole)
    # What other devices run, by tensor operations alone, run here.
    elsewhere = torch.empty(n)
    rows._fill_elsewhere(elsewhere, key, scaled_quantiles(0.3), first_piece)
    assert torch.equal(elsewhere, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_bits() -> None:
    drawn = NormalRows("cuda").fill(torch.empty(N, device="cuda"), 5, scale=0.3)
    assert torch.equal(drawn.cpu(), row(5, scale=0.3))


def test_the_scale_multiplies_and_may_change_from_call_to_call() -> None:
    rows = NormalRows()
    once = [rows.fill(torch.empty(99), 4, scale=scale) for scale in (1.0, 0.5, 3.0, 1.0)]
    assert torch.equal(once[1], once[0] * 0.5)
    torch.testing.assert_close(once[2], once[0] * 3, rtol=1e-6, atol=1e-6)
    assert torch.equal(once[3], once[0])


def test_the_stream_is_pinned() -> None:
    """Offspring are bred again by other processes, other versions included."""
    assert row(12345, 6).tolist() == FIRST
    assert row(12345, 2 * PIECE)[[PIECE - 1, PIECE, 2 * PIECE - 1]].tolist() == LATER
