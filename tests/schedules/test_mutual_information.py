from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.schedules import (
    MutualInformationLR,
    entropy,
    mutual_information,
    mutual_information_decay,
)

TARGETS = torch.tensor([0] * 50 + [1] * 50)
FLIPPED = torch.tensor([1] * 5 + [0] * 45 + [0] * 5 + [1] * 45)  # a tenth of each
INDEPENDENT = torch.tensor(([0] * 25 + [1] * 25) * 2)


def make(n_groups: int = 1, **arguments: Any) -> MutualInformationLR:
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(n_groups)]
    optimizer = torch.optim.SGD(groups, lr=7.0)
    return MutualInformationLR(optimizer, **{"lr_min": 0.1, "lr_max": 1.1, **arguments})


def rates(scheduler: MutualInformationLR) -> list[float]:
    return [group["lr"] for group in scheduler.optimizer.param_groups]


def settle(scheduler: MutualInformationLR, predictions: Any, targets: Tensor = TARGETS) -> float:
    """The learning rate once the information has stopped changing."""
    for _ in range(2):
        scheduler.optimizer.step()
        scheduler.step(predictions, targets)
    return rates(scheduler)[0]


def test_a_binary_channel() -> None:
    assert mutual_information(FLIPPED, TARGETS) == pytest.approx(0.368064, abs=1e-6)
    factor = 1 - mutual_information(FLIPPED, TARGETS) / entropy(TARGETS)
    assert factor == pytest.approx(0.468996, abs=1e-6)
    assert settle(make(), FLIPPED) == pytest.approx(0.1 + 0.468996, abs=1e-6)


def test_the_bounds_are_reached() -> None:
    assert settle(make(), INDEPENDENT) == pytest.approx(1.1)
    assert settle(make(), TARGETS) == pytest.approx(0.1)
    assert settle(make(), 1 - TARGETS) == pytest.approx(0.1)  # what it calls them is all one


def test_begins_at_the_upper_bound_and_waits_while_the_information_changes() -> None:
    scheduler = make(threshold=0.5)
    assert rates(scheduler) == [1.1]
    scheduler.optimizer.step()
    for predictions, expected in (
        (INDEPENDENT, 1.1),  # the first measurement has nothing to be compared with
        (FLIPPED, 1.1),
        (TARGETS, 1.1),  # from 0.368 to 0.693: by more than half
        (TARGETS, 0.1),
    ):
        scheduler.step(predictions, TARGETS)
        assert rates(scheduler) == pytest.approx([expected])


def test_the_rate_never_rises() -> None:
    scheduler = make()
    assert settle(scheduler, TARGETS) == pytest.approx(0.1)
    assert settle(scheduler, FLIPPED) == pytest.approx(0.1)


def test_scores_count_by_their_largest() -> None:
    scores = torch.nn.functional.one_hot(FLIPPED, 2) * 3.0 - 1
    assert mutual_information(scores, TARGETS) == mutual_information(FLIPPED, TARGETS)


def test_one_class_leaves_nothing_to_learn() -> None:
    assert settle(make(), FLIPPED, torch.zeros(100)) == pytest.approx(0.1)


def test_layers_slow_down_by_their_own_information() -> None:
    scheduler = make(3, layerwise=True)
    settle(scheduler, [INDEPENDENT, FLIPPED, TARGETS])
    assert rates(scheduler) == pytest.approx([1.1, 0.568996, 0.1], abs=1e-6)


def test_state_dict_goes_on_where_it_stopped() -> None:
    first, second = make(), make(lr_max=5.0)
    first.optimizer.step()
    first.step(FLIPPED, TARGETS)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second) == [1.1]
    second.step(FLIPPED, TARGETS)
    assert rates(second) == pytest.approx([0.568996], abs=1e-6)


def test_what_is_known_means_the_same_at_other_bounds() -> None:
    """So an individual inherits it from a parent that trained with another rate."""
    first, second = make(), make(lr_min=1.0, lr_max=3.0)
    assert first.memory.keys() == {"known"}
    settle(first, FLIPPED)
    second.memory = first.memory
    second.optimizer.step()
    second.step(INDEPENDENT, TARGETS)
    assert rates(second) == pytest.approx([1.0 + 2.0 * 0.468996], abs=1e-5)
    assert second.memory["information"].tolist() == pytest.approx([0.0])


@pytest.mark.parametrize(
    "memory",
    [{"known": torch.zeros(2)}, {"rate": torch.zeros(1)}, {"information": torch.zeros(())}],
)
def test_refuses_a_memory_that_is_none(memory: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigurationError, match="'known' and 'information' of 1 parameter group"):
        make().memory = memory


def test_the_schedule_of_a_population_begins_at_the_rate_it_finds() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = mutual_information_decay(optimizer, 7, floor=0.1)
    assert rates(scheduler) == [0.5]
    assert settle(scheduler, TARGETS) == pytest.approx(0.05)
    for floor in (0.0, 1.5, math.nan):
        with pytest.raises(ConfigurationError, match=r"floor must be in \(0, 1\], got"):
            mutual_information_decay(optimizer, 7, floor=floor)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_information_is_between_nothing_and_both_entropies(pairs: list[tuple[int, int]]) -> None:
    first, second = (torch.tensor(part) for part in zip(*pairs, strict=True))
    information = mutual_information(first, second)
    assert 0 <= information <= min(entropy(first), entropy(second)) + 1e-12
    assert information == pytest.approx(mutual_information(second, first), abs=1e-12)
    assert mutual_information(second, second) == pytest.approx(entropy(second))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr_min": 0.0}, r"0 < lr_min <= lr_max, got \[0.0, 1.1\]"),
        ({"lr_min": 2.0}, r"got \[2.0, 1.1\]"),
        ({"lr_max": math.inf}, r"got \[0.1, inf\]"),
        ({"threshold": -0.1}, "threshold must be 0 or more, got -0.1"),
        ({"threshold": math.nan}, "got nan"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make(**arguments)


@pytest.mark.parametrize(
    ("layerwise", "predictions", "targets", "words"),
    [
        (False, None, None, "needs predictions and targets"),
        (False, TARGETS[:3], TARGETS, r"shape \[3\] and targets of shape \[100\]"),
        (False, TARGETS[:0], TARGETS[:0], "one prediction"),
        (False, TARGETS, TARGETS[:, None], "one prediction"),
        (True, TARGETS, TARGETS, "each of the 1 parameter groups, got Tensor of length 100"),
        (True, [TARGETS, TARGETS], TARGETS, "got list of length 2"),
    ],
)
def test_refuses_what_cannot_be_measured(
    layerwise: bool, predictions: Any, targets: Any, words: str
) -> None:
    scheduler = make(layerwise=layerwise)
    scheduler.optimizer.step()
    with pytest.raises(ConfigurationError, match=words):
        scheduler.step(predictions, targets)
