from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.modules import STDPRule

# Steps x inputs: the first spikes at step 0, the second at 2, the third at 1, the last never.
INPUTS = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]])
OUTPUTS = torch.tensor([[0, 0], [1, 0], [1, 0]])  # the first at step 1, the second never


def test_what_spiked_before_the_neuron_grows_and_the_rest_shrinks() -> None:
    weights = torch.full((2, 4), 0.5, dtype=torch.float64)
    STDPRule().update(weights, INPUTS, OUTPUTS)
    up, down = 0.5 + 0.004 / 4, 0.5 - 0.003 / 4
    assert weights[0].tolist() == pytest.approx([up, down, up, down])
    assert weights[1].tolist() == [0.5] * 4


@given(
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_weights_stay_between_0_and_1(row: list[float], a_plus: float, a_minus: float) -> None:
    weights = torch.tensor([row, row])
    for _ in range(20):
        STDPRule(a_plus, a_minus).update(weights, INPUTS, OUTPUTS)
    assert float(weights.min()) >= 0
    assert float(weights.max()) <= 1
    for value, end in zip(row, weights[0].tolist(), strict=True):
        assert value not in (0, 1) or end == value


@pytest.mark.parametrize("arguments", [{"a_plus": -0.1}, {"a_minus": 1.1}])
def test_refuses_rates(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"must be in \[0, 1\]"):
        STDPRule(**arguments)


def test_refuses_weights_out_of_range_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(ConfigurationError, match=r"Weights must be in \[0, 1\]"):
        STDPRule().update(torch.full((2, 4), 1.5), INPUTS, OUTPUTS)
    with pytest.raises(ConfigurationError, match=r"need inputs \(steps, 3\)"):
        STDPRule().update(torch.full((2, 3), 0.5), INPUTS, OUTPUTS)
    with pytest.raises(ConfigurationError, match=r"outputs \(steps, 2\)"):
        STDPRule().update(torch.full((2, 4), 0.5), INPUTS, OUTPUTS[:2])
