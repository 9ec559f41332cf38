"""The compiled step is the batched one, compiled once; and what happens where it cannot be."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import optuna
import pytest
import torch
import torch._dynamo.config
import torch._inductor.config
from torch import Tensor

import optuna_esgd as esgd
from optuna_esgd.species import SGD, Adam, AMSGrad, EntropySGD, Species
from optuna_esgd.trainer import compilation
from optuna_esgd.trainer.compilation import compile_function
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_batched import final_weights, make_double_task

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"
)


def species() -> list[Species]:
    """Rules with one to three states; one without a rule; one that evaluates the loss itself."""
    return [SGD(), Adam(), AMSGrad(), Species(torch.optim.ASGD, lr=0.01), EntropySGD()]


def train(
    name: str, backend: str, schedule: str, **arguments: object
) -> tuple[optuna.Study, list[Tensor]]:
    task = make_double_task(name)
    study = make_study(
        10, seed=3, back_off="best", resample_probability=0.5, rate_schedule=schedule
    )
    trainer = esgd.ESGDTrainer(task, species=species(), backend=backend, **arguments)
    study.optimize(trainer, n_trials=20)
    return study, final_weights(study, task)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "schedule"), [("dropout", "constant"), ("batch-norm", "constant"), ("mlp", "cosine")]
)
def test_compiled_equals_batched_and_is_compiled_once(
    name: str, schedule: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: dict[str, compilation.Compiled] = {}
    monkeypatch.setattr(compilation, "_compiled", compiled)
    study, weights = train(name, "compiled", schedule, cohort_size=5)
    assert "not compiled" not in caplog.text
    shown = {trial.params["species"] for trial in study.trials}
    assert shown >= {"Adam", "AMSGrad", "ASGD", "EntropySGD"}
    # Two cohorts, two generations, other species in each row: one function, compiled once.
    assert [one.n_compilations for one in compiled.values()] == [1]

    batched_study, batched = train(name, "batched", schedule, cohort_size=5)
    for one, other in zip(weights, batched, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    for mine, theirs in zip(study.trials, batched_study.trials, strict=True):
        assert mine.params == theirs.params
        assert mine.values[0] == pytest.approx(theirs.values[0], rel=1e-6)
        assert mine.user_attrs["gradients"] == theirs.user_attrs["gradients"]


@needs_compiler
def test_the_same_function_is_compiled_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_compiled", {})

    def make(factor: Tensor) -> compilation.Function:
        return lambda x: [x * factor]

    first, again, other = (
        compile_function(make(torch.tensor([factor])), [torch.ones(3)])
        for factor in (2.0, 2.0, 3.0)
    )
    assert isinstance(first, compilation.Compiled)
    assert isinstance(other, compilation.Compiled)
    assert again is first
    assert other is not first  # a constant inside is part of what is computed
    assert other.call(torch.ones(3))[0].tolist() == [3.0, 3.0, 3.0]


def test_without_a_compiler_cohorts_train_batched_and_say_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(compilation, "_compiled", {})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what others compiled is no help
    values = []
    for backend in ("compiled", "batched"):
        study = make_study()
        with (
            caplog.at_level(logging.WARNING, "optuna_esgd"),
            torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        ):
            study.optimize(esgd.ESGDTrainer(make_task(), backend=backend), n_trials=8)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]
    warnings = [one.getMessage() for one in caplog.records if "not compiled" in one.getMessage()]
    assert len(warnings) == 1
    assert "no-such-compiler" in warnings[0] or "compiler" in warnings[0].lower()


def test_where_compiling_is_switched_off_nothing_is_taken_for_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compilation, "_compiled", {})
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    # torch.compile refuses in newer versions, and returns the function as it is in older ones.
    assert isinstance(compile_function(lambda x: [x + 1], [torch.ones(2)]), str)


def test_what_cannot_be_traced_is_a_reason() -> None:
    found = compile_function(lambda x: [x] if x.sum() > 0 else [-x], [torch.ones(2)])
    assert isinstance(found, str)
