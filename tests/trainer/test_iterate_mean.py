"""The mean of the weights an epoch goes through, as one more point to keep."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Individual
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.species import SGD, Adam
from optuna_esgd.store.opening import find_population
from optuna_esgd.trainer import workshop
from optuna_esgd.trainer.iterate_mean import IterateMean
from tests.trainer.studies import make_study
from tests.trainer.test_rates import double_task


def build(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Weights that train, one that is frozen, running statistics, and a counter of batches."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(dtype)
    next(model.parameters()).requires_grad_(False)
    return model


def random_weights(n_rows: int, dtype: torch.dtype = torch.float32) -> Matrix:
    weights = Matrix.zeros(Layout.of(build(dtype)), n_rows)
    for block in weights.blocks.values():
        block.copy_(torch.randint(9, block.shape))
    return weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_mean_of_what_moves(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    path = [random_weights(3, dtype) for _ in range(4)]
    mean = IterateMean(path[0])
    for weights in path:
        mean.add(weights, range(1, 3))
    found = mean.read(path[-1])
    for name, last in path[-1].read_row(0).items():
        torch.testing.assert_close(found.read_row(0)[name], last, rtol=0, atol=0)
    for row in (1, 2):
        for name, value in found.read_row(row).items():
            there = torch.stack([weights.read_row(row)[name] for weights in path])
            moves = name != "0.weight" and there.is_floating_point()
            expected = there.double().mean(0) if moves else there[-1]
            torch.testing.assert_close(value, expected.to(value.dtype), rtol=1e-6, atol=0)


def test_weights_that_stay_are_their_own_mean_to_the_last_bit() -> None:
    weights = Matrix.zeros(Layout.of(build()), 1)
    weights.blocks[torch.float32].uniform_()
    mean = IterateMean(weights)
    for _ in range(19):
        mean.add(weights, range(1))
    assert torch.equal(mean.read(weights).blocks[torch.float32], weights.blocks[torch.float32])


def test_what_diverged_in_one_epoch_is_forgotten_in_the_next() -> None:
    weights = random_weights(1)
    mean = IterateMean(weights)
    diverged = weights.clone()
    diverged.blocks[torch.float32].fill_(torch.inf)
    mean.add(diverged, range(1))
    mean.add(weights, range(1))
    assert torch.equal(mean.read(weights).trainable()[0], weights.trainable()[0])
    mean.begin()
    mean.add(weights, range(1))
    assert torch.equal(mean.read(weights).blocks[torch.float32], weights.blocks[torch.float32])


def test_infinite_buffers_stay_what_they_are() -> None:
    """Such as the mask of a transformer."""
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    weights = Matrix.zeros(Layout.of(model), 1)
    weights.take_from(model, 0)
    mean = IterateMean(weights)
    mean.add(weights, range(1))
    mean.add(weights, range(1))
    assert torch.equal(mean.read(weights).read_row(0)["mask"], model.mask)


def test_buffers_that_a_model_replaces_are_followed() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.register_buffer("seen", torch.zeros(1))

    model = Moving()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    weights = Matrix.zeros(Layout.of(model), 1)
    mean = IterateMean(weights)
    with mean.following(model, optimizer, row=0):
        for step in range(3):
            model.seen = torch.full((1,), float(step))
            model.weight.grad = torch.ones(1)
            optimizer.step()
    assert {name: float(one) for name, one in mean.read(weights).read_row(0).items()} == {
        "weight": -2.0,
        "seen": 1.0,
    }


class Swing(esgd.Task):
    """A weight that swings about 0: 3, -3, 3, -3 in each epoch; the founder has 10."""

    def build_model(self) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 10.0)
        return model

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        del epoch
        swing(model, optimizer)

    def fitness(self, model: nn.Module) -> float:
        return float(next(model.parameters()).detach().abs())


def swing(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weight = next(model.parameters())
    for target in (3.0, -3.0, 3.0, -3.0):
        weight.grad = weight.detach() - target
        optimizer.step()


def individuals_of(study: optuna.Study) -> list[Individual]:
    population = find_population(study)
    assert population is not None
    return [one for one in population.individuals() if one.n_epochs > 0]


STEP = SGD(lr=1.0, momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize(("averages", "fitness"), [(True, 0.0), (False, 3.0)])
def test_the_mean_is_kept_where_it_is_the_best_point(averages: bool, fitness: float) -> None:
    study = make_study(n_epochs=2, average_iterates=averages, n_offspring=0)
    study.optimize(esgd.ESGDTrainer(Swing(), species=[STEP]), n_trials=4)
    assert {trial.value for trial in study.trials} == {fitness}
    model = esgd.load_best(study, Swing().build_model())
    assert Swing().fitness(model) == fitness
    for one in individuals_of(study):
        # Birth; two epochs, with their means; and the mean of both.
        assert one.n_evaluations == (6 if averages else 3)
        assert one.n_back_offs == 1  # the second epoch improved nothing


def test_training_goes_on_from_where_it_stands_and_not_from_the_mean() -> None:
    starts = []

    class Watched(Swing):
        def train_epoch(
            self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
        ) -> None:
            starts.append(float(next(model.parameters()).detach()))
            super().train_epoch(model, optimizer, epoch)

    study = make_study(n_epochs=3, n_offspring=0, average_steps=False)
    study.optimize(esgd.ESGDTrainer(Watched(), species=[STEP]), n_trials=8)
    assert starts == [10.0, -3.0, -3.0] * 4 + [0.0, -3.0, -3.0] * 4


def test_an_objective_of_ones_own_keeps_it_too() -> None:
    def objective(trial: optuna.Trial) -> float:
        model = Swing().build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        with esgd.sgd_step(trial, model, Swing().fitness, optimizer=optimizer) as step:
            for _ in step.epochs():
                swing(model, optimizer)
                assert float(next(model.parameters()).detach()) == -3.0
            assert float(next(model.parameters()).detach()) == 0.0  # back at the kept point
        assert float(next(model.parameters()).detach()) == step.fitness
        return step.fitness

    study = make_study(n_epochs=2, n_offspring=0)
    study.optimize(objective, n_trials=4)
    assert {trial.value for trial in study.trials} == {0.0}


@pytest.mark.parametrize("backend", ["batched", "compiled"])
def test_every_backend_keeps_the_same_means(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(**options: Any) -> tuple[list[torch.Tensor], list[int]]:
        task = double_task()
        study = make_study(n_epochs=3)
        trainer = esgd.ESGDTrainer(task, species=[SGD(lr=(0.3, 1.0)), Adam()], **options)
        study.optimize(trainer, n_trials=8)
        models = [esgd.load_individual(study, t, task.build_model()) for t in study.trials[-4:]]
        evaluations = [one.n_evaluations for one in individuals_of(study)]
        return [nn.utils.parameters_to_vector(one.parameters()) for one in models], evaluations

    batched = train(backend=backend)
    monkeypatch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))
    rows = train(backend="rows")
    for one, other in zip(batched[0], rows[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    assert batched[1] == rows[1]
