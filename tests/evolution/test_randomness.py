from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.evolution.randomness import derive_seed, stream

counters = st.lists(st.integers(-5, 300) | st.text(max_size=5), max_size=4).map(tuple)
addresses = st.tuples(st.integers(0, 2**64), counters)

# Written down once and for all: a study goes on after an upgrade with the numbers it began with.
GOLDEN_SEED = 5474698698474869552
GOLDEN_RAW = [5410020549161217066, 4518398601547214092, 11713395253961973525]

PRINT = (
    "from optuna_esgd.evolution.randomness import derive_seed, stream;"
    "print(derive_seed(7, 3, 1, 'dropout'),"
    "*stream(7, 3, 1, 'parents').bit_generator.random_raw(3), stream(7, 3, 1, 'parents').random())"
)


def raw(seed: int, *counter: int | str) -> list[int]:
    return stream(seed, *counter).bit_generator.random_raw(3).tolist()


def test_golden_values() -> None:
    assert derive_seed(7, 3, 1, "dropout") == GOLDEN_SEED
    assert raw(7, 3, 1, "parents") == GOLDEN_RAW


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_every_process_draws_the_same(hash_seed: str) -> None:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    completed = subprocess.run(
        [sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True
    )
    number = stream(7, 3, 1, "parents").random()
    assert completed.stdout.split() == [str(n) for n in (GOLDEN_SEED, *GOLDEN_RAW, number)]


@given(st.lists(addresses, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_calls_does_not_matter(
    opened: list[tuple[int, tuple[int | str, ...]]], random: object
) -> None:
    expected = {address: raw(address[0], *address[1]) for address in opened}
    shuffled = opened * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for seed, counter in shuffled:
        assert raw(seed, *counter) == expected[seed, counter]


@given(addresses, addresses)
def test_other_addresses_are_other_streams(
    one: tuple[int, tuple[int | str, ...]], other: tuple[int, tuple[int | str, ...]]
) -> None:
    assert (raw(one[0], *one[1]) == raw(other[0], *other[1])) == (one == other)
    assert (derive_seed(one[0], *one[1]) == derive_seed(other[0], *other[1])) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 23), (12, 3)),
        ((1, 2, "3"), (1, 2, 3)),
        ((1, "a", "b"), (1, "a', 'b")),
        ((0, 1, 2), (0, 2, 1)),
        ((0, 1), (0, 1, 0)),
    ],
)
def test_addresses_that_look_alike_are_told_apart(
    one: tuple[int | str, ...], other: tuple[int | str, ...]
) -> None:
    assert raw(*one) != raw(*other)  # type: ignore[arg-type]


def test_numpy_integers_count_like_pythons() -> None:
    assert raw(np.int64(7), np.int32(3)) == raw(7, 3)  # type: ignore[arg-type]


@given(addresses)
def test_seeds_fit_into_63_bits(address: tuple[int, tuple[int | str, ...]]) -> None:
    assert 0 <= derive_seed(address[0], *address[1]) < 2**63


def test_streams_of_neighbours_are_not_correlated() -> None:
    numbers = np.array([stream(0, 0, i, "x").random() for i in range(4000)])
    assert abs(numbers.mean() - 0.5) < 5 / np.sqrt(12 * 4000)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 / np.sqrt(4000)
