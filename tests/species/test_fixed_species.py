"""Species of which nothing is searched."""

from __future__ import annotations

import pytest
import torch

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.species.registry import fixed_species


@pytest.mark.parametrize(
    ("optimizer_class", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.95)}),
        (torch.optim.ASGD, {"lr": 0.01}),
    ],
)
def test_it_is_the_optimizer_with_these_settings(
    optimizer_class: type[torch.optim.Optimizer], settings: dict[str, object]
) -> None:
    species = fixed_species(optimizer_class, settings)
    assert species.space == {}
    assert (species.batched is None) == (optimizer_class is torch.optim.ASGD)
    parameters = [torch.zeros(2, requires_grad=True)]
    made, plain = species.build(parameters, {}), optimizer_class(parameters, **settings)
    assert type(made) is optimizer_class
    assert made.param_groups == plain.param_groups


def test_settings_the_optimizer_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="momentun"):
        fixed_species(torch.optim.SGD, {"lr": 0.1, "momentun": 0.9})
