from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.paths import mutate_path
from optuna_esgd.modules import PathwayNetwork
from optuna_esgd.operators import PathMutation, resolve_mutation
from tests.operators.landscapes import KnownLandscape


def make() -> PathwayNetwork:
    torch.manual_seed(0)
    return PathwayNetwork(4, 2, layers=2, modules=6, active=3, width=3)


def test_the_path_moves_as_in_the_paper_and_weights_do_not() -> None:
    network = make()
    before = copy.deepcopy(network.state_dict())
    for seed in range(10):
        expected = mutate_path(network.path.numpy(), 6, np.random.default_rng(seed))
        PathMutation().mutate(network, 0.1, KnownLandscape(), seed=seed)
        assert np.array_equal(network.path.numpy(), expected)
    assert not torch.equal(network.path, before["path"])
    for name, tensor in network.state_dict().items():
        assert name == "path" or torch.equal(tensor, before[name])


def test_a_seed_is_a_mutation() -> None:
    networks = [make() for _ in range(2)]
    for network in networks:
        PathMutation().mutate(nn.Sequential(network), 0.1, KnownLandscape(), seed=3)
    assert torch.equal(networks[0].path, networks[1].path)


def test_by_name_and_what_it_costs() -> None:
    mutation = resolve_mutation("path")
    assert mutation == PathMutation()
    assert repr(mutation) == "PathMutation()"
    assert (mutation.n_gradients, mutation.n_evaluations) == (0, 0)


def test_refuses_models_without_a_path() -> None:
    PathMutation().check_model(nn.Sequential(make()))
    with pytest.raises(ConfigurationError, match=r"PathMutation\(\) moves .* Linear has none"):
        PathMutation().check_model(nn.Linear(2, 2))
