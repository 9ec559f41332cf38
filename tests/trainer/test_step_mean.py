"""The mean of a whole SGD step, and training that goes on from where it stood."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.verification import verify
from optuna_esgd.trainer.step_mean import StepMean, ahead_of, go_ahead, split_state
from tests.trainer.studies import make_study
from tests.trainer.test_iterate_mean import STEP, build, individuals_of, random_weights

_TOLERANCES = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", _TOLERANCES)
def test_it_is_the_mean_of_the_epochs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    path = [random_weights(2, dtype) for _ in range(4)]
    mean = StepMean()
    found = [mean.add(weights) for weights in path]
    assert found[0] is None  # it is that of the epoch
    assert found[-1] is not None
    for row in range(2):
        for name, value in found[-1].read_row(row).items():
            there = torch.stack([weights.read_row(row)[name] for weights in path])
            expected = there.double().mean(0) if there.is_floating_point() else there[-1]
            tolerance = _TOLERANCES[dtype]
            torch.testing.assert_close(value, expected.to(value.dtype), rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", _TOLERANCES)
def test_epochs_that_stay_are_their_own_mean_to_the_last_bit(dtype: torch.dtype) -> None:
    weights = Matrix.zeros(Layout.of(build().to(dtype)), 1)
    weights.blocks[dtype].uniform_()
    mean = StepMean()
    for _ in range(9):
        mean.add(weights)
    assert mean.weights is not None
    assert torch.equal(mean.weights.blocks[dtype], weights.blocks[dtype])


def test_what_diverged_in_one_epoch_is_as_in_the_next() -> None:
    weights, diverged = random_weights(1), random_weights(1)
    diverged.blocks[torch.float32].fill_(torch.inf)
    mean = StepMean()
    mean.add(diverged)
    found = mean.add(weights)
    assert found is not None
    assert torch.equal(found.blocks[torch.float32], weights.blocks[torch.float32])


def test_how_far_training_has_got_is_carried_with_the_optimizers_state() -> None:
    kept, now = random_weights(3), random_weights(3)
    left = ahead_of(kept, now, [0, 2])
    assert left.keys() == {0, 2}
    assert "ahead.0.weight" not in left[0]  # it is frozen
    state = {"momentum": torch.ones(1), **left[2]}
    of_optimizer, ahead = split_state(state)
    assert of_optimizer.keys() == {"momentum"}
    moved = kept.clone()
    assert go_ahead(moved, [{}, {}, ahead])
    for row, other in enumerate([kept, kept, now]):
        for name, value in moved.read_row(row).items():
            is_left = name not in kept.parameters()  # frozen, or measured with the weights
            assert torch.equal(value, (kept if is_left else other).read_row(row)[name])
    assert not go_ahead(moved, [{}, {}, {}])


def test_masks_are_not_ahead_of_themselves_and_who_diverged_is_not_ahead() -> None:
    model = nn.Linear(2, 2)
    mask = torch.full((2, 2), -torch.inf).triu(1)
    model.register_buffer("mask", mask)
    kept = Matrix.zeros(Layout.of(model), 2)
    for row in range(2):
        kept.take_from(model, row)
    now = kept.clone()
    now.parameters()["weight"][0] += 1
    now.parameters()["weight"][1, 0] = torch.nan
    left = ahead_of(kept, now, [0, 1])
    assert left.keys() == {0}
    assert go_ahead(kept, [left[0], {}])
    assert torch.equal(kept.read_row(0)["weight"], now.read_row(0)["weight"])
    assert torch.equal(kept.read_row(0)["mask"], mask)


class Pulled(esgd.Task):
    """A weight that each epoch puts somewhere; the fitness is its distance from 0.

    Args:
        places: Where the epochs of every SGD step put it; one that is a pair, to both in turn.
    """

    def __init__(self, *places: tuple[float, float] | float) -> None:
        self.places = places
        self.starts: list[float] = []

    def build_model(self) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 10.0)
        return model

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        weight = next(model.parameters())
        if epoch.number == 0:
            self.starts.append(float(weight.detach()))
        place = self.places[epoch.number]
        for target in place if isinstance(place, tuple) else (place, place):
            weight.grad = weight.detach() - target
            optimizer.step()

    def fitness(self, model: nn.Module) -> float:
        return float(next(model.parameters()).detach().abs())


def train(task: Pulled, n_trials: int = 8, **settings: Any) -> optuna.Study:
    chosen = {"n_offspring": 0, "n_epochs": len(task.places), "keep_probability": 1.0}
    chosen["average_steps"] = settings.get("average_iterates", True)
    study = make_study(**{**chosen, **settings})
    study.optimize(esgd.ESGDTrainer(task, species=[STEP]), n_trials=n_trials)
    assert verify(open_results(study)) == []
    return study


@pytest.mark.parametrize(("averages", "fitness"), [(True, 1.0), (False, 3.0)])
def test_the_mean_of_the_step_is_kept_where_it_is_the_best(averages: bool, fitness: float) -> None:
    task = Pulled(3.0, -5.0)
    study = train(task, 4, average_steps=averages)
    assert {trial.value for trial in study.trials} == {fitness}
    assert task.fitness(esgd.load_best(study, task.build_model())) == fitness
    assert {one.n_evaluations for one in individuals_of(study)} == {6 if averages else 5}


@pytest.mark.parametrize(
    ("places", "start"),
    [
        ((3.0, -5.0), -5.0),  # at the mean of both, 1
        (((3.0, -5.0),), -5.0),  # at the mean of the only epoch, 1
        ((7.0, 3.0), 3.0),  # at the last point
        ((3.0, 7.0), 3.0),  # at the first point, after which it got worse
        ((14.0, 12.0), 12.0),  # at its birth, but it was getting better
        ((12.0, 14.0), 10.0),  # at its birth
        ((12.0, 12.0), 10.0),  # at its birth; it stood still
        ((12.0,), 10.0),  # at its birth; whether it got better is not known
        ((14.0, float("inf")), 10.0),
    ],
)
def test_where_the_next_generation_goes_on(
    places: tuple[tuple[float, float] | float, ...], start: float
) -> None:
    task = Pulled(*places)
    train(task)
    assert task.starts == [10.0] * 4 + [start] * 4


@pytest.mark.parametrize(
    "settings",
    [{"average_steps": False}, {"inherit_optimizer_state": False}, {"average_iterates": False}],
)
def test_without_it_training_begins_where_it_was_born(settings: dict[str, Any]) -> None:
    task = Pulled((3.0, -5.0))
    study = train(task, **settings)
    ends = {study.trials[number].value for number in range(4)}
    assert set(map(abs, task.starts[4:])) == ends


def test_offspring_go_on_from_as_far_from_their_birth_as_the_first_parent() -> None:
    task = Pulled((3.0, -5.0))
    study = train(task, n_offspring=8, mutation_scale=1e-3, n_elites=1)
    assert any(one.birth == "recombination" for one in individuals_of(study))
    # All ended at -1 and were at -5, so that everybody bred begins near -5 too.
    assert task.starts[4:] == pytest.approx([-5.0] * 4, abs=0.1)


def test_an_objective_of_ones_own_goes_on_likewise() -> None:
    task = Pulled(3.0, -5.0)

    def objective(trial: optuna.Trial) -> float:
        model = task.build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        with esgd.sgd_step(trial, model, task.fitness, optimizer=optimizer) as step:
            for number in step.epochs():
                weight = next(model.parameters())
                if number == 0:
                    task.starts.append(float(weight.detach()))
                for target in ((3.0, 3.0), (-5.0, -5.0))[number]:
                    weight.grad = weight.detach() - target
                    optimizer.step()
        assert task.fitness(model) == step.fitness
        return step.fitness

    study = make_study(n_offspring=0, n_epochs=2, average_steps=True)
    study.optimize(objective, n_trials=8)
    assert {trial.value for trial in study.trials} == {1.0}
    assert task.starts == [10.0] * 4 + [-5.0] * 4
    assert verify(open_results(study)) == []
