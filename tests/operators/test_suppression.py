from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators import ClusterSuppression

U, V, W = torch.eye(6)[:3]
N = torch.eye(6)[5]
PAIRS = torch.stack([U, U + 1e-3 * N, V, V + 1e-3 * N, W])


def suppressed(updates: dict[str, Tensor], fitness: list[float], **arguments: Any) -> list[int]:
    births = {name: torch.randn(update.shape) for name, update in updates.items()}
    ends = {name: births[name].double() + update.double() for name, update in updates.items()}
    births = {name: birth.double() for name, birth in births.items()}
    return ClusterSuppression(**arguments).suppressed(births, ends, fitness)


def test_the_less_fit_of_each_pair_is_suppressed() -> None:
    assert suppressed({"w": PAIRS}, [1.0, 2.0, 4.0, 3.0, 9.0]) == [1, 2]


def test_of_identical_updates_one_stays() -> None:
    assert suppressed({"w": U.repeat(4, 1)}, [3.0, 1.0, 2.0, 4.0]) == [0, 2, 3]


def test_layers_count_whatever_their_size() -> None:
    alike = torch.randn(1, 200, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    apart = torch.stack([U, V]).view(2, 2, 3)
    updates = {"large": alike, "small": apart, "other": apart}
    assert suppressed(updates, [1.0, 2.0], share=0.5) == []
    assert suppressed(updates, [1.0, 2.0], share=0.33) == [1]


def test_who_has_not_moved_loses_nothing_and_suppresses_nobody() -> None:
    still = torch.stack([torch.zeros(6), U, torch.zeros(6), U])
    assert suppressed({"w": still}, [1.0, 2.0, 3.0, 4.0]) == [3]


def test_the_diverged_yield_to_the_others() -> None:
    assert suppressed({"w": U.repeat(3, 1)}, [math.inf, 5.0, math.inf]) == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"distance": -0.1}, r"distance must be in \[0, 2\], got -0.1"),
        ({"distance": 2.5}, "got 2.5"),
        ({"share": 0.0}, r"share must be in \(0, 1\], got 0.0"),
        ({"share": math.nan}, "got nan"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ClusterSuppression(**arguments)
