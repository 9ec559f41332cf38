"""Species of every kind in one population: batched or row by row, and none can spoil the run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import check_distribution_compatibility

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range
from optuna_esgd.sampler.distributions import to_distribution
from optuna_esgd.species import (
    SGD,
    ConditionedMutation,
    CycleStabilizedSGD,
    EntropySGD,
    ExtrapolatedSGD,
    NonlinearCG,
    PowerAMSGrad,
    PowerGradientSGD,
    Rprop,
    stock_species,
)
from optuna_esgd.species.base import Species
from optuna_esgd.trainer import workshop
from optuna_esgd.trainer.spaces import _are_alike
from tests.trainer.models import N_EXAMPLES
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_batched import make_double_task

N_BATCHES = N_EXAMPLES // 8


class Broken(torch.optim.SGD):
    """Raises in its second step."""

    def step(self, closure: Any = None) -> Any:
        if self.param_groups[0].setdefault("is_old", False):
            raise ZeroDivisionError("no such luck")
        self.param_groups[0]["is_old"] = True
        return super().step(closure)


class BrokenWithClosure(torch.optim.SGD):
    """Raises after it has moved the weights."""

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        super().step(closure)
        raise ZeroDivisionError("no such luck")


class Poison(torch.optim.SGD):
    """Makes everything NaN."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            p.fill_(float("nan"))


class Idle(torch.optim.SGD):
    """Never changes the weights."""

    def step(self, closure: Any = None) -> Any:
        return None


SPECIES: dict[str, Callable[[], Species]] = {
    "SGD": SGD,
    "Rprop": Rprop,
    "EntropySGD": lambda: EntropySGD(langevin_steps=5, noise=1e-2),
    "EntropySGD alone": lambda: EntropySGD(langevin_steps=[2, 3], noise=1e-2),
    "EntropySGD momentum": lambda: EntropySGD(
        langevin_steps=2, nesterov=[True, False], inner_momentum=(0.5, 0.9), scoping=(0.1, 1.0)
    ),
    "ConditionedMutation": ConditionedMutation,
    "ConditionedMutation warm": lambda: ConditionedMutation(beta=(1.0, 100.0)),
    "PowerGradientSGD": PowerGradientSGD,
    "PowerAMSGrad": PowerAMSGrad,
    "past": ExtrapolatedSGD,
    "extragradient": lambda: ExtrapolatedSGD(mode="extragradient", extrapolation_lr=None),
    "nesterov": lambda: ExtrapolatedSGD(mode="nesterov"),
    "any mode": lambda: ExtrapolatedSGD(mode=["past", "extragradient"]),
    "CycleStabilizedSGD": lambda: CycleStabilizedSGD(depth=3, momentum=(0.5, 0.9)),
    "NonlinearCG": NonlinearCG,
    "LBFGS": lambda: Species(torch.optim.LBFGS, lr=FloatRange(0.1, 1.0, "log"), max_iter=3),
}


def train(
    model: str, species: list[Any], n_generations: int = 2, **settings: Any
) -> tuple[optuna.Study, list[torch.Tensor]]:
    task = make_double_task(model)
    n = settings.pop("population_size", 2 * len(species))
    study = make_study(n, **settings)
    study.optimize(esgd.ESGDTrainer(task, species=species), n_trials=n_generations * n)
    weights = [
        torch.cat([p.flatten() for p in loaded.parameters()])
        for trial in study.trials[-n:]
        for loaded in [esgd.load_individual(study, trial, task.build_model())]
    ]
    return study, weights


def train_row_by_row(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **settings: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))
        return train(*arguments, **settings)


def assert_same(one: Any, other: Any) -> None:
    for ours, theirs in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    for ours, theirs in zip(one[0].trials, other[0].trials, strict=True):
        assert ours.params == theirs.params
        assert ours.values[0] == pytest.approx(theirs.values[0], rel=1e-6)
        for cost in ("gradients", "forwards"):
            assert ours.user_attrs[cost] == theirs.user_attrs[cost]


@pytest.mark.parametrize("name", SPECIES)
def test_batched_equals_row_by_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in company of SGD, over dropout and batch-norm; best: inherited state is used."""
    # A bias before batch-norm has no gradient but rounding, which these two make large.
    is_scale_free = name in ("Rprop", "PowerAMSGrad")
    for model in ("dropout", "layer-norm" if is_scale_free else "batch-norm"):
        species = [SPECIES[name]()] if name == "SGD" else [SPECIES[name](), SGD(name="company")]
        batched = train(model, species, back_off="best")
        assert_same(batched, train_row_by_row(monkeypatch, model, species, back_off="best"))


def test_all_species_together(monkeypatch: pytest.MonkeyPatch) -> None:
    species = [*stock_species().values(), Species(torch.optim.LBFGS, lr=1.0, max_iter=3)]
    batched = train("mlp", species, n_generations=3)
    assert_same(batched, train_row_by_row(monkeypatch, "mlp", species, n_generations=3))
    assert esgd.certificate(batched[0])
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in batched[0].trials)


class TwoPrecisions(torch.nn.Module):
    """Weights in two blocks of the matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 8).double()
        self.scale = torch.nn.Parameter(torch.ones(8))
        self.last = torch.nn.Linear(8, 3).double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(inputs)) * self.scale.double())


def test_weights_of_two_precisions_step_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws and decisions are one for all weights of a row, wherever they lie."""
    results = []
    for is_batched in (True, False):
        task = make_double_task("mlp")
        task.model = TwoPrecisions
        study = make_study(4)
        species = [ConditionedMutation(), EntropySGD(langevin_steps=2, noise=0.1)]
        with monkeypatch.context() as patch:
            if not is_batched:
                patch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))
            study.optimize(esgd.ESGDTrainer(task, species=species), n_trials=4)
        results.append([trial.value for trial in study.trials])
        assert any(t.value < t.user_attrs["value_at_birth"] for t in study.trials)
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_by_name_and_by_class() -> None:
    trainer = esgd.ESGDTrainer(
        make_task(),
        species=["EntropySGD", NonlinearCG, esgd_optim().PowerGradientSGD, torch.optim.LBFGS],
    )
    assert list(trainer.species) == ["EntropySGD", "NonlinearCG", "PowerGradientSGD", "LBFGS"]
    assert trainer.species["PowerGradientSGD"].space


def esgd_optim() -> Any:
    from optuna_esgd import optim

    return optim


def test_runs_repeat_bit_by_bit() -> None:
    species = [EntropySGD(langevin_steps=2), ConditionedMutation(), SGD()]
    first, second = (train("dropout", species)[1] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_siblings_draw_different_mutations() -> None:
    """They inherit one parent's state, but draw from counters of their own."""
    _, weights = train(
        "mlp", [ConditionedMutation(sigma=1e-2, beta=1e-9)], n_generations=1, population_size=3
    )
    moves = [w - weights[0] for w in weights[1:]]
    assert all(move.abs().max() > 0 for move in moves)
    assert not torch.equal(*moves)


@pytest.mark.parametrize(
    ("species", "n_gradients", "n_forwards"),
    [
        (SGD(), N_BATCHES, 0),
        (Rprop(), N_BATCHES, 0),
        (ConditionedMutation(), 0, 2 * N_BATCHES),
        (PowerAMSGrad(), N_BATCHES, 0),
        (CycleStabilizedSGD(), N_BATCHES, 0),
        (ExtrapolatedSGD(), N_BATCHES, 0),
        (ExtrapolatedSGD(mode="extragradient"), 2 * N_BATCHES, 0),
        (EntropySGD(langevin_steps=2), 4, 0),  # 3 mini-batches are two steps of 2
        (EntropySGD(langevin_steps=3), 3, 0),
        (EntropySGD(), 20, 0),  # the one step that has begun ends
        (NonlinearCG(max_evaluations=1), 2 * N_BATCHES, 0),
        (Species(torch.optim.LBFGS, max_iter=1, max_eval=1), N_BATCHES, 0),
    ],
    ids=lambda value: value.name if isinstance(value, Species) else str(value),
)
@pytest.mark.parametrize("is_batched", [True, False])
def test_what_an_epoch_costs(
    species: Species,
    n_gradients: int,
    n_forwards: int,
    is_batched: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments: dict[str, Any] = {"n_generations": 1, "population_size": 2, "n_epochs": 2}
    study, _ = (
        train("mlp", [species], **arguments)
        if is_batched
        else train_row_by_row(monkeypatch, "mlp", [species], **arguments)
    )
    for trial in study.trials:
        assert trial.user_attrs["gradients"] == 2 * n_gradients
        assert trial.user_attrs["forwards"] == 2 * n_forwards
    table = esgd.lineage(study)
    assert table[table["round"] == 0]["forwards"].tolist() == [2 * n_forwards] * 2


@pytest.mark.parametrize("bad", [Broken, BrokenWithClosure, Poison, Idle])
@pytest.mark.parametrize("is_batched", [True, False])
def test_no_species_can_spoil_the_run(
    bad: type[torch.optim.Optimizer],
    is_batched: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    species = [
        Species(bad, lr=FloatRange(0.01, 0.1, "log")),
        SGD(lr=0.1),
        Rprop(),
        EntropySGD(langevin_steps=2),
    ]
    arguments: dict[str, Any] = {"n_generations": 3, "population_size": 8}
    with caplog.at_level(logging.WARNING, "optuna_esgd"):
        study, _ = (
            train("mlp", species, **arguments)
            if is_batched
            else train_row_by_row(monkeypatch, "mlp", species, **arguments)
        )
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials)
    for trial in study.trials:
        assert trial.value <= trial.user_attrs["value_at_birth"]
        if trial.params["species"] == bad.__name__:
            assert trial.value == trial.user_attrs["value_at_birth"]
    best = [min(t.value for t in study.trials[g * 8 : g * 8 + 8]) for g in range(3)]
    assert best == sorted(best, reverse=True)
    first_of_sgd = next(t for t in study.trials if t.params["species"] == "SGD")
    assert first_of_sgd.value < first_of_sgd.user_attrs["value_at_birth"]
    was_blamed = "no such luck" in caplog.text
    assert was_blamed == (bad in (Broken, BrokenWithClosure))


def test_what_the_task_raises_within_a_closure_is_not_blamed_on_the_optimizer() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if is_broken:
            raise KeyError("no such class")
        return torch.nn.functional.cross_entropy(outputs, targets)

    for species in (SGD(), EntropySGD(), Species(torch.optim.LBFGS)):
        is_broken = False
        study = make_study(2)
        trainer = esgd.ESGDTrainer(
            make_task(loss=loss, metric=torch.nn.functional.cross_entropy), species=[species]
        )
        trainer.open(study)
        is_broken = True
        with pytest.raises(KeyError, match="no such class"):
            study.optimize(trainer, n_trials=2)


@pytest.mark.parametrize(
    ("species", "words"),
    [
        (
            [SGD(lr=FloatRange(1e-3, 1e-1)), "Adam"],
            "'SGD' searches 'lr' over real numbers on a linear scale, 'Adam' over real numbers on",
        ),
        ([SGD(lr=[0.1, 0.2]), "Adam"], r"over the choices \(0.1, 0.2\)"),
        ([SGD(lr=IntRange(1, 8, "log")), "Adam"], "over whole numbers on a log scale"),
        (
            [SGD(nesterov=[True, False]), SGD(name="b", nesterov=[True])],
            r"over the choices \(True, False\), 'b' over the choices \(True,\)",
        ),
    ],
)
def test_what_optuna_takes_for_two_parameters_is_refused(species: list[Any], words: str) -> None:
    """Before there is a study, whatever its founders would draw."""
    with pytest.raises(ConfigurationError, match=words):
        esgd.ESGDTrainer(make_task(), species=species)


_RANGES = (
    FloatRange(0.1, 0.9),
    FloatRange(0.5, 0.99, "one_minus"),
    FloatRange(0.1, 1.0, "log"),
    FloatRange(0.1, 0.9, step=0.2),
    FloatRange(1.0, 9.0, "log", step=1.0),
    IntRange(1, 9),
    IntRange(1, 9, step=2),
    IntRange(1, 9, "log"),
    IntRange(1, 9, "log", step=2),
    Choices((True, False)),
    Choices((1, 0)),
    Choices((True,)),
)


@pytest.mark.parametrize("one", _RANGES, ids=repr)
@pytest.mark.parametrize("other", _RANGES, ids=repr)
def test_optuna_says_what_one_parameter_is(one: Range, other: Range) -> None:
    try:
        check_distribution_compatibility(to_distribution(one), to_distribution(other))
    except ValueError:
        is_one = False
    else:
        is_one = True
    assert _are_alike(one, other) == is_one


def test_what_optuna_takes_for_one_parameter_trains() -> None:
    """Bounds may differ, and scales that Optuna does not know."""
    species = [
        SGD(lr=(1e-2, 1e-1), momentum=FloatRange(0.5, 0.9)),
        PowerGradientSGD(momentum=(0.8, 0.99), H=0.8),
        SGD(name="on a grid", lr=(1e-1, 1.0), momentum=FloatRange(0.0, 0.9, step=0.3)),
        SGD(name="here", lr=(1e-1, 1.0), momentum=0.9, nesterov=[True, False]),
        SGD(name="there", lr=(1e-1, 1.0), momentum=0.9, nesterov=[1, 0]),
    ]
    study = make_study(10, n_offspring=0)
    study.optimize(esgd.ESGDTrainer(make_task(), species=species), n_trials=20)
    assert all(trial.value is not None for trial in study.trials)
