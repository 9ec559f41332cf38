"""The batched path and the row-by-row path side by side."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Callable, Sequence

import optuna
import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.species import SGD, CycleStabilizedSGD, EntropySGD, RMSprop, Species
from optuna_esgd.trainer import calibration, workshop
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task

BATCHED = sorted(MODELS.keys() - {"branching", "gru", "lstm"})


def final_weights(study: optuna.Study, task: esgd.SupervisedTask) -> list[torch.Tensor]:
    return [
        torch.cat([p.flatten() for p in model.parameters()])
        for trial in study.trials[-4:]  # older weights are collected
        for model in [esgd.load_individual(study, trial, task.build_model())]
    ]


def make_double_task(name: str) -> esgd.SupervisedTask:
    """In double precision, where two correct computations stay together for whole runs."""

    def double(part: torch.Tensor) -> torch.Tensor:
        return part.double() if part.is_floating_point() else part

    train, validation = (tuple(map(double, examples(name, seed))) for seed in (0, 1))
    return make_task(
        name, model=lambda: MODELS[name][0]().double(), train=train, validation=validation
    )


def _train(
    name: str,
    *,
    species: Sequence[Species] | None = None,
    n_trials: int = 8,
    **arguments: object,
) -> tuple[optuna.Study, list[torch.Tensor]]:
    task = make_double_task(name)
    study = make_study(**arguments)
    study.optimize(esgd.ESGDTrainer(task, species=species), n_trials=n_trials)
    return study, final_weights(study, task)


def _row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))


@pytest.mark.parametrize("make", [SGD, RMSprop, EntropySGD, CycleStabilizedSGD])
def test_momentum_that_comes_and_goes(
    make: type[Species], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it torch has no buffer, and so gathers none."""
    runs = []
    for is_batched in (True, False):
        if not is_batched:
            _row_by_row(monkeypatch)
        species = make(lr=(1e-3, 1e-2), momentum=[0.0, 0.9])
        settings = {"n_offspring": 0, "explore": "resample", "back_off": "none"}
        runs.append(_train("mlp", species=[species], n_trials=24, **settings))
    momenta = [trial.params["momentum"] for trial in runs[0][0].trials]
    assert len(set(momenta)) == 2
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("back_off", ["step", "best"])
@pytest.mark.parametrize("name", BATCHED)
def test_batched_equals_row_by_row(
    name: str, back_off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched_study, batched = _train(name, back_off=back_off)
    _row_by_row(monkeypatch)
    plain_study, plain = _train(name, back_off=back_off)
    for one, other in zip(batched, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    for one, other in zip(batched_study.trials, plain_study.trials, strict=True):
        assert one.params == other.params
        assert one.values[0] == pytest.approx(other.values[0], rel=1e-6)


@pytest.mark.parametrize("name", BATCHED)
def test_what_can_be_batched_is(name: str, caplog: pytest.LogCaptureFixture) -> None:
    _train(name)
    assert "row by row" not in caplog.text


@pytest.mark.parametrize("name", ["branching", "lstm", "gru"])
def test_what_cannot_be_batched_trains_row_by_row_and_says_why_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "optuna_esgd"):
        study, _ = _train(name)
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    reasons = [r for r in caplog.records if "row by row" in r.message]
    assert 1 <= len(reasons) <= 2
    assert len({r.message for r in reasons}) == len(reasons)


class Remembers(nn.Module):
    """Assigns a buffer in its forward pass, where torch's own modules write into theirs."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)
        outputs: torch.Tensor = self.inner(inputs - self.mean)
        return outputs


class Recalls(nn.Module):
    """Has a state that is no buffer, and that is there from the first pass on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.last: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(inputs)
        if self.last is not None:
            outputs = outputs + 0.1 * self.last
        self.last = outputs.detach().mean(0, keepdim=True)
        return outputs


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.lock = threading.Lock()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with self.lock:
            outputs: torch.Tensor = self.inner(inputs)
        return outputs


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Remembers, "trains row by row, not batched: .*buffer mean differs"),
        (Recalls, "scored row by row, not batched: RuntimeError: The size of tensor"),
        (Locked, r"trains row by row, not batched: copy\.deepcopy cannot copy it"),
        (lambda: nn.utils.weight_norm(nn.Linear(6, 3)), "cannot copy it"),
    ],
)
def test_models_that_cannot_be_batched_train_all_the_same(
    model: Callable[[], nn.Module], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    train, validation = ((x + 3, y) for x, y in (examples("mlp", seed) for seed in (0, 1)))
    values = []
    for backend in ("auto", "rows"):
        study = make_study()
        task = make_task(model=model, train=train, validation=validation)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of weight_norm
            study.optimize(esgd.ESGDTrainer(task, backend=backend), n_trials=8)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]
    assert re.search(reason, caplog.text)


def test_a_measured_study_trains_what_cannot_be_copied_row_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "_SHORT_RUN_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "_NATIVE_RUN_GRADIENTS", 0)
    study = make_study(n_generations=2)
    trainer = esgd.ESGDTrainer(make_task(model=Locked))
    study.optimize(trainer, n_trials=4)
    assert trainer.open(study).configuration.backend == "rows"


def test_parameters_without_elements_are_batched(caplog: pytest.LogCaptureFixture) -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.empty = nn.Linear(6, 3), nn.Parameter(torch.zeros(0, 3))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.inner(inputs) + self.empty.sum()
            return outputs

    make_study().optimize(esgd.ESGDTrainer(make_task(model=Empty)), n_trials=1)
    assert "row by row" not in caplog.text


def test_bfloat16_trains_close_to_float32() -> None:
    values = {}
    for precision in ("float32", "bfloat16"):
        study = make_study()
        study.optimize(esgd.ESGDTrainer(make_task(precision=precision)), n_trials=8)
        values[precision] = study.best_value
    assert values["bfloat16"] == pytest.approx(values["float32"], rel=0.1)
    assert values["bfloat16"] != values["float32"]


class SumOfSquares(esgd.SupervisedTask):
    """Small weights are all that counts: nothing a batched loss could tell."""

    def fitness(self, model: nn.Module) -> float:
        return float(sum(p.square().sum() for p in model.parameters()))


def test_a_fitness_of_its_own_is_what_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    task = SumOfSquares(
        model=MODELS["mlp"][0],
        loss=nn.functional.cross_entropy,
        train=examples("mlp", 0),
        validation=examples("mlp", 1),
        batch_size=8,
    )
    study = make_study()
    with caplog.at_level(logging.WARNING, "optuna_esgd"):
        study.optimize(esgd.ESGDTrainer(task), n_trials=8)
    model = esgd.load_individual(study, study.best_trial, task.build_model())
    assert study.best_value == pytest.approx(task.fitness(model))
    assert "SumOfSquares has a fitness of its own" in caplog.text
