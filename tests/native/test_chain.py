"""Which networks and losses are recognised, and what is said of the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own abbreviation)
from torch import Tensor, nn

from optuna_esgd.native.chain import Activation, Chain, Layer, read_chain, read_loss


class Written(nn.Module):
    """A chain in the words of a forward method."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.body = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Identity())
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        values = F.leaky_relu(self.first(torch.flatten(inputs, 1)), 0.3)
        values = torch.tanh(self.body(values))
        return self.last(self.drop(values)).relu()


def test_a_forward_method_is_read_like_a_sequence() -> None:
    assert read_chain(Written().eval()) == Chain(
        (
            Layer("first.weight", "first.bias", 4, 3, Activation("leaky_relu", 0.3)),
            Layer("body.0.weight", None, 3, 3, Activation("tanh")),
            Layer("last.weight", "last.bias", 3, 2, Activation("relu")),
        ),
        flattens=True,
    )
    training = read_chain(Written().train())
    assert isinstance(training, Chain)
    assert [layer.dropout for layer in training.layers] == [0.0, 0.5, 0.0]


def test_a_layer_alone_is_a_network() -> None:
    assert read_chain(nn.Linear(4, 3)) == Chain((Layer("weight", "bias", 4, 3),))


class Calls(nn.Module):
    """Some layers, and a forward that is given."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self._given = forward

    def forward(self, inputs: Tensor) -> Any:
        return self._given(self, inputs)


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 2))
    model[0].register_forward_hook(lambda *_: None)
    return model


class Doubling(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


UNKNOWN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolution": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3)), "there is no C for Conv2d"),
    "batch-norm": (lambda: nn.Sequential(nn.BatchNorm1d(4)), "there is no C for BatchNorm1d"),
    "subclass": (lambda: nn.Sequential(Doubling(4, 4)), "no chain"),
    "residual": (lambda: Calls(lambda m, x: m.b(m.a(x) + x)), "no chain"),
    "doubled": (lambda: Calls(lambda m, x: m.b(2 * m.a(x))), "chain|no C for 'mul'"),
    "same layer twice": (lambda: Calls(lambda m, x: m.a(m.a(x))), "uses a layer twice"),
    "two results": (lambda: Calls(lambda m, x: (m.a(x), m.a(x))), "chain|something else"),
    "depends on data": (lambda: Calls(lambda m, x: m.a(x) if x.sum() > 0 else x), "traced"),
    "nothing to train": (lambda: nn.Sequential(nn.Flatten()), "no linear layer"),
    "activation first": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), "begins with"),
    "two activations": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Tanh()),
        "does not follow a linear layer",
    ),
    "dropout first": (
        lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 2)),
        "dropout that does not follow a layer",
    ),
    "dropout twice": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1), nn.Dropout(0.1)),
        "dropout that does not follow a layer",
    ),
    "activation after dropout": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1), nn.Tanh()),
        "does not follow a linear layer",
    ),
    "negative slope": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.LeakyReLU(-0.1)),
        "negative setting",
    ),
    "hooks": (_hooked, "0 has hooks"),
    "parametrised": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
        "no C|traced|chain",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_no_chain_has_a_reason(name: str) -> None:
    build, reason = UNKNOWN[name]
    found = read_chain(build())
    assert isinstance(found, str), found
    assert re.search(reason, found), found


def by_keyword(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(input=outputs, target=targets, reduction="mean")


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (F.cross_entropy, "cross_entropy"),
        (nn.CrossEntropyLoss(), "cross_entropy"),
        (lambda outputs, targets: F.cross_entropy(outputs, targets), "cross_entropy"),  # noqa: PLW0108
        (by_keyword, "cross_entropy"),
        (F.mse_loss, "mse_loss"),
        (nn.MSELoss(), "mse_loss"),
        (nn.L1Loss(), "l1_loss"),
        (nn.BCEWithLogitsLoss(), "bce_with_logits"),
    ],
)
def test_losses_in_all_words(loss: Callable[..., Tensor], name: str) -> None:
    assert read_loss(loss) == name


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing"),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), "none of"),
        (partial(F.cross_entropy, ignore_index=2), "ignore_index"),
        (nn.MSELoss(reduction="sum"), "reduction"),
        (lambda outputs, targets: F.mse_loss(targets, outputs), "setting|outputs"),
        (lambda outputs, targets: F.mse_loss(outputs, outputs), "setting|outputs|none of"),
        (lambda outputs, targets: 2 * F.mse_loss(outputs, targets), "none of|traced"),
        (F.smooth_l1_loss, "none of"),
        (lambda outputs, targets: (outputs - targets).abs().mean(), "none of|traced"),
    ],
)
def test_other_losses_have_a_reason(loss: Callable[..., Tensor], reason: str) -> None:
    found = read_loss(loss)
    assert re.search(reason, found), found
