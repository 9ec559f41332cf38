from __future__ import annotations

import pytest
import torch
from torch import nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.schedules import PartitionedTraining


def make(**arguments: int) -> PartitionedTraining:
    torch.manual_seed(0)
    partitions = [nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()), nn.Linear(5, 6)]
    partitions.append(nn.Sequential(nn.Tanh(), nn.Linear(6, 7)))
    return PartitionedTraining(partitions, [nn.Linear(n, 3) for n in (5, 6, 7)], **arguments)


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 3


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_only_the_partition_and_its_proxy_change(phase: int) -> None:
    model = make()
    # Momentum and weight decay would move whatever has a gradient, even one of zeros.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for warm_up in (0, 1, 2):  # so that every part has momentum
        model.phase = warm_up
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    model.phase = phase
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    trained = {id(p) for p in model.phase_parameters(phase)}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in trained), name


def test_all_at_once_trains_the_partitions_and_the_last_head() -> None:
    model = make()
    model(X).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias"}


def test_in_evaluation_mode_every_phase_gives_the_answer_of_the_whole() -> None:
    model = make().eval()
    whole = model(X)
    for phase in (0, 1, 2):
        model.phase = phase
        assert torch.equal(model(X), whole)


@pytest.mark.parametrize("phase", [-1, 3])
def test_refuses_a_phase_there_is_not(phase: int) -> None:
    with pytest.raises(ConfigurationError, match=f"between 0 and 2, got {phase}"):
        make(phase=phase)
    with pytest.raises(ConfigurationError, match=f"between 0 and 2, got {phase}"):
        make().phase = phase


@pytest.mark.parametrize(("partitions", "heads"), [(2, 1), (0, 0), (1, 2)])
def test_refuses_partitions_without_heads(partitions: int, heads: int) -> None:
    with pytest.raises(ConfigurationError, match=f"got {partitions} partitions and {heads} heads"):
        PartitionedTraining([nn.Identity()] * partitions, [nn.Identity()] * heads)
