"""Updates in C against the rules in tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from optuna_esgd.evolution.space import Choices
from optuna_esgd.native.updates import Updates, build_updates
from optuna_esgd.optim.batched import BatchedUpdate
from optuna_esgd.species import SGD, Adam, AdamW, AMSGrad, Species
from optuna_esgd.trainer.native_rules import native_rule
from tests.native.builds import needs_compiler

pytestmark = needs_compiler

N_ROWS, N_STEPS = 4, 30

SPECIES: Mapping[str, Species] = {
    "SGD": SGD(),
    "SGD without momentum": SGD(momentum=0.0),
    "SGD without anything": SGD(momentum=0.0, weight_decay=0.0),
    "SGD without decay": SGD(weight_decay=0.0),
    "SGD of Nesterov": SGD(nesterov=True),
    "SGD of both kinds": SGD(nesterov=Choices((False, True))),
    "Adam": Adam(),
    "Adam without decay": Adam(weight_decay=0.0),
    "AdamW": AdamW(),
    "AMSGrad": AMSGrad(),
}


@pytest.fixture(scope="module")
def updates() -> Updates:
    found = build_updates()
    assert not isinstance(found, str)
    return found


def middle(species: Species, row: int) -> dict[str, float | bool]:
    """Values within the ranges, others for each row."""
    values: dict[str, float | bool] = {}
    for name, range_ in species.space.items():
        if isinstance(range_, Choices):
            values[name] = bool(row % 2)
        else:
            low, high = float(range_.low), float(range_.high)
            values[name] = low + (high - low) * (row + 1) / (N_ROWS + 2) / 5
    return values


def train(
    rule: BatchedUpdate, species: Species, width: int, rows: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    parameters = torch.randn(N_ROWS, width + 7, generator=generator)[:, :width]
    parameters = parameters[list(rows)]
    state = rule.init_state(parameters)
    columns = species.columns([middle(species, row) for row in rows], parameters)
    for _ in range(N_STEPS):
        gradients = torch.randn(N_ROWS, width, generator=generator)[list(rows)]
        before = gradients.clone()
        rule.step(parameters, gradients, state, columns)
        assert torch.equal(gradients, before)
    return parameters, state


@pytest.mark.parametrize("width", [1, 15, 16, 40])
@pytest.mark.parametrize("name", SPECIES)
def test_an_update_in_c_is_the_rule_s(name: str, width: int, updates: Updates) -> None:
    species = SPECIES[name]
    rule = species.batched
    assert isinstance(rule, BatchedUpdate)
    native = native_rule(rule, updates)
    assert native is not rule
    assert isinstance(native, BatchedUpdate)
    expected, expected_state = train(rule, species, width, range(N_ROWS))
    found, state = train(native, species, width, range(N_ROWS))
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    assert state.keys() == expected_state.keys()
    for key, value in state.items():
        torch.testing.assert_close(value, expected_state[key], rtol=2e-5, atol=2e-5)
    alone, _ = train(native, species, width, [2])
    assert torch.equal(alone[0], found[2])


def test_rules_derived_from_known_ones_stay_themselves(updates: Updates) -> None:
    rule = SGD().batched
    assert rule is not None

    class Other(type(rule)):  # type: ignore[misc]
        pass

    other = Other(has_momentum=True)
    assert native_rule(other, updates) is other
