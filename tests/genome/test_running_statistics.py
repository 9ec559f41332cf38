"""Running statistics are measured anew, and nothing else about the model changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optuna_esgd.errors import TaskError
from optuna_esgd.genome.statistics import has_running_statistics, reestimate_statistics


class Network(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3)
        self.norm = norm
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.BatchNorm1d(3)
        self.last = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.dropout(self.norm(self.first(inputs))).mean((2, 3)))


def batches(n: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 2, 6, 6, generator=generator) * 2 + 1 for _ in range(n)]


def perturbed(norm: nn.Module) -> Network:
    torch.manual_seed(0)
    model = Network(norm)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.fill_(100.0)
            module.running_var.fill_(200.0)
            module.num_batches_tracked.fill_(50)
    return model


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("is_training", [True, False])
def test_statistics_are_the_mean_over_batches(momentum: float | None, is_training: bool) -> None:
    model = perturbed(nn.BatchNorm2d(3, momentum=momentum)).train(is_training)
    model.dropout.train(not is_training)
    reestimate_statistics(model, batches())
    hidden = torch.stack([model.first(batch).detach() for batch in batches()])
    means = hidden.mean((1, 3, 4)).mean(0)
    variances = torch.stack([one.transpose(0, 1).flatten(1).var(1) for one in hidden]).mean(0)
    torch.testing.assert_close(model.norm.running_mean, means)
    torch.testing.assert_close(model.norm.running_var, variances)
    assert model.norm.num_batches_tracked == 4
    assert model.norm.momentum == momentum
    assert model.training == is_training
    assert model.norm.training == is_training
    assert model.dropout.training is not is_training
    assert not model.norm._forward_pre_hooks


def test_instance_norm_that_tracks() -> None:
    model = perturbed(nn.InstanceNorm2d(3, track_running_stats=True))
    reestimate_statistics(model, batches())
    hidden = torch.stack([model.first(batch).detach() for batch in batches()])
    torch.testing.assert_close(model.norm.running_mean, hidden.mean((3, 4)).mean((0, 1)))
    torch.testing.assert_close(model.norm.running_var, hidden.var((3, 4)).mean((0, 1)))


def test_parameters_and_random_numbers_are_left_alone() -> None:
    model = perturbed(nn.BatchNorm2d(3))
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    reestimate_statistics(model, batches())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), before, strict=True)
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_same_batches_give_the_same_bits() -> None:
    results = []
    for _ in range(2):
        model = perturbed(nn.BatchNorm2d(3))
        reestimate_statistics(model, iter(batches()))
        results.append(model.norm.running_var.clone())
    assert torch.equal(*results)


def test_later_layers_see_what_training_shows_them() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[0].running_mean.fill_(100.0)
    reestimate_statistics(model, [torch.randn(64, 3) * 5 + 3])
    torch.testing.assert_close(model[1].running_mean, torch.zeros(3), atol=1e-5, rtol=0)


def test_a_layer_used_twice_averages_over_its_calls() -> None:
    norm = nn.BatchNorm1d(2, affine=False)
    first, second = torch.randn(8, 2), torch.randn(8, 2) + 10

    def forward(model: nn.Module, batch: Tensor) -> None:
        model(batch)
        model(second)

    reestimate_statistics(norm, [first], forward)
    torch.testing.assert_close(norm.running_mean, (first.mean(0) + second.mean(0)) / 2)


def test_layers_that_no_batch_reaches_keep_what_they_had() -> None:
    model = perturbed(nn.BatchNorm2d(3))
    reestimate_statistics(model, batches())
    assert model.unused.running_mean.eq(100.0).all()
    assert model.unused.num_batches_tracked == 50


def test_forward_may_be_given() -> None:
    model = nn.BatchNorm1d(3)
    pairs = [{"x": torch.full((4, 3), float(k)), "y": None} for k in range(3)]
    reestimate_statistics(model, pairs, lambda network, batch: network(batch["x"]))
    torch.testing.assert_close(model.running_mean, torch.ones(3))


def test_no_batches() -> None:
    model = perturbed(nn.BatchNorm2d(3))
    with pytest.raises(TaskError, match="no batches"):
        reestimate_statistics(model, [])
    assert model.norm.running_mean.eq(100.0).all()


def test_an_error_leaves_modes_and_momenta() -> None:
    model = perturbed(nn.BatchNorm2d(3)).train()
    with pytest.raises(RuntimeError, match="expected"):
        reestimate_statistics(model, [torch.zeros(1, 9, 6, 6)])
    assert model.dropout.training
    assert model.norm.momentum == 0.1
    assert not model.norm._forward_pre_hooks


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.BatchNorm1d(2), True),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm3d(2)), True),
        (nn.InstanceNorm1d(2, track_running_stats=True), True),
        (nn.InstanceNorm1d(2), False),
        (nn.BatchNorm1d(2, track_running_stats=False), False),
        (nn.GroupNorm(1, 2), False),
        (nn.LayerNorm(2), False),
    ],
)
def test_has_running_statistics(model: nn.Module, expected: bool) -> None:
    assert has_running_statistics(model) is expected


def test_models_without_statistics_are_left_alone() -> None:
    reestimate_statistics(nn.Linear(2, 2), [])
