"""Powers of gradients: torch's own at H = 1, a cycle of known size below."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optuna_esgd.optim import PowerAMSGrad, PowerGradientSGD
from optuna_esgd.optim.power_gradient import power_gradient
from tests.optim.functions import bowl, parameter, path


def test_powers_keep_their_sign() -> None:
    powers = power_gradient(torch.tensor([4.0, -9.0, 0.0]), 0.5)
    assert powers.tolist() == [2.0, -3.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}],
    ids=str,
)
def test_h_of_1_is_torchs_bit_by_bit(settings: dict[str, Any], dtype: torch.dtype) -> None:
    start = torch.randn(40, generator=torch.Generator().manual_seed(0)).to(dtype)
    x, y = (start.clone().requires_grad_() for _ in range(2))
    ours = PowerGradientSGD([x], 0.1, H=1.0, **settings)
    assert torch.equal(
        path(ours, x, 30, bowl), path(torch.optim.SGD([y], 0.1, **settings), y, 30, bowl)
    )


def test_amsgrad_with_h_of_1_is_torchs_bit_by_bit() -> None:
    start = torch.randn(40, generator=torch.Generator().manual_seed(0))
    x, y = (start.clone().requires_grad_() for _ in range(2))
    torchs = torch.optim.Adam([y], 0.1, amsgrad=True)
    assert torch.equal(path(PowerAMSGrad([x], 0.1, H=1.0), x, 30, bowl), path(torchs, y, 30, bowl))


def test_ends_in_a_cycle() -> None:
    x = parameter(1.0)
    points = path(PowerGradientSGD([x], 0.1, H=0.5), x, 2000, bowl)[-2:, 0]
    assert abs(abs(points[0].item()) - 0.0025) < 1e-12
    assert points[0].item() == pytest.approx(-points[1].item(), abs=1e-12)


@pytest.mark.parametrize("make", [PowerGradientSGD, PowerAMSGrad])
def test_grad_is_left_as_it_was_and_groups_have_their_own(make: Any) -> None:
    x, y, z = (parameter(4.0) for _ in range(3))
    optimizer = make([{"params": [x]}, {"params": [y], "H": 0.5}], lr=0.1, H=1.0)
    optimizer.add_param_group({"params": [z]})
    (bowl(x) + bowl(y) + bowl(z)).backward()
    optimizer.step()
    assert (x.grad.item(), y.grad.item()) == (4.0, 4.0)
    assert [group["H"] for group in optimizer.param_groups] == [1.0, 0.5, 1.0]
    if make is PowerGradientSGD:
        assert (x.item(), y.item()) == pytest.approx((3.6, 3.8))
    for bad in (0.0, -1.0, float("nan"), "half"):
        with pytest.raises(ValueError, match="H must be a number above 0, got"):
            make([parameter(1.0)], H=bad)
        with pytest.raises(ValueError, match="H must be a number above 0, got"):
            optimizer.add_param_group({"params": [parameter(1.0)], "H": bad})
