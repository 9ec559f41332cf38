from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.modules import PathwayNetwork, mutate_path, random_path

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2


def make(**arguments: Any) -> PathwayNetwork:
    torch.manual_seed(0)
    return PathwayNetwork(6, 2, **{"layers": 2, "modules": 4, "active": 2, "width": 3} | arguments)


def test_the_defaults_are_those_of_the_paper() -> None:
    network = PathwayNetwork(784, 2)
    assert (network.n_layers, network.n_modules, network.n_active) == (3, 10, 3)
    assert network.head.in_features == 20


def test_mutation_changes_as_many_genes_as_it_should() -> None:
    rng = np.random.default_rng(0)
    path = random_path(3, 10, 3, rng)
    changed = np.array([(mutate_path(path, 10, rng) != path).sum() for _ in range(40_000)])
    assert changed.mean() == pytest.approx(0.8, abs=0.02)
    # Of 9 genes each is left alone with probability 1 - 0.8/9; untouched altogether more rarely.
    assert (changed == 0).mean() == pytest.approx((1 - 0.8 / 9) ** 9, abs=0.01)


class CountedDraws:
    """A stream that records which genes a mutation touches."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.n_touched: list[int] = []

    def random(self, shape: tuple[int, ...]) -> Any:
        drawn = self.rng.random(shape)
        self.n_touched.append(int((drawn < 1 / 9).sum()))
        return drawn

    def integers(self, *arguments: Any, **named: Any) -> Any:
        return self.rng.integers(*arguments, **named)


def test_no_gene_is_touched_as_often_as_it_should() -> None:
    draws: Any = CountedDraws()
    path = np.zeros((3, 3), dtype=np.int64)
    for _ in range(40_000):
        mutate_path(path, 10, draws)
    untouched = np.mean(np.array(draws.n_touched) == 0)
    assert untouched == pytest.approx((1 - 1 / 9) ** 9, abs=0.01)


def test_moves_are_at_most_two_and_wrap() -> None:
    rng = np.random.default_rng(0)
    path = np.zeros((3, 3), dtype=np.int64)
    reached: set[int] = set()
    for _ in range(2000):
        reached |= set(mutate_path(path, 10, rng).ravel().tolist())
    assert reached == {8, 9, 0, 1, 2}
    assert not path.any()


def test_modules_of_a_layer_are_summed_and_one_named_twice_counts_once() -> None:
    network = make(layers=1)
    path = np.array([[1, 3]])
    hidden = sum(torch.relu(network.grid[0][number](X)) for number in (1, 3))
    torch.testing.assert_close(network(X, path), network.head(hidden))
    single = network.head(torch.relu(network.grid[0][2](X)))
    torch.testing.assert_close(network(X, torch.tensor([[2, 2]])), single)


def test_without_a_path_it_is_its_own() -> None:
    network = make()
    assert network.path.shape == (2, 2)
    assert network.path.dtype == torch.int64
    assert torch.equal(network(X), network(X, network.path))
    network.path.copy_(torch.tensor([[0, 3], [1, 2]]))
    assert torch.equal(network(X), network(X, [[0, 3], [1, 2]]))
    assert "path" in network.state_dict()
    torch.manual_seed(1)
    drawn = [PathwayNetwork(2, 2).path for _ in range(20)]
    assert {number for path in drawn for number in path.flatten().tolist()} == set(range(10))


def test_a_frozen_path_keeps_its_bits_and_has_no_gradients() -> None:
    network, rng = make(), np.random.default_rng(0)
    path = network.random_path(rng)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network.freeze_path(path, torch.Generator().manual_seed(1))
    frozen = {
        name
        for name, p in network.named_parameters()
        if name.startswith("grid") and int(name.split(".")[2]) in path[int(name.split(".")[1])]
    }
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    started = {name: p.detach().clone() for name, p in network.named_parameters()}
    for other in (path, network.random_path(rng), network.random_path(rng)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(X, other), Y).backward()
        optimizer.step()
        assert all(p.grad is None for name, p in network.named_parameters() if name in frozen)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name
        assert torch.equal(started[name], before[name]) == (name in frozen), name


def test_what_was_frozen_before_stays_so() -> None:
    network = make()
    first, second = np.array([[0, 1], [0, 1]]), np.array([[2, 3], [2, 2]])
    network.freeze_path(first, torch.Generator().manual_seed(1))
    kept = network.grid[0][0].weight.detach().clone()
    network.freeze_path(second, torch.Generator().manual_seed(2))
    assert torch.equal(network.grid[0][0].weight, kept)
    assert not network.grid[0][2].weight.requires_grad
    assert network.grid[1][3].weight.requires_grad


def test_the_rest_starts_anew_as_torch_would() -> None:
    network = PathwayNetwork(100, 2, layers=1, modules=5, active=1, width=50)
    network.freeze_path([[0]], torch.Generator().manual_seed(0))
    weight = network.grid[0][1].weight.detach()
    assert float(weight.abs().max()) <= 0.1
    assert float(weight.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    "arguments", [{"layers": 0}, {"modules": 0}, {"active": 5}, {"width": 0}, {"active": 0}]
)
def test_refuses_sizes(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="1 or more and active at most modules"):
        make(**arguments)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ([[0, 1]], r"\(2, 2\) whole numbers, got int64 \(1, 2\)"),
        ([[0.0, 1.0], [0.0, 1.0]], "got float64"),
        ([[0, 1], [0, 4]], "0 to 3"),
        ([[0, 1], [0, -1]], "0 to 3"),
    ],
)
def test_refuses_paths(path: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()(X, path)
