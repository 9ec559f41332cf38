"""Which backend a study trains with: measured or named, and remembered."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer import calibration
from optuna_esgd.trainer.calibration import Calibration
from optuna_esgd.trainer.compilation import Compiled
from optuna_esgd.trainer.compiled_step import CompiledSteps
from tests.native.builds import needs_compiler
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_batched import final_weights, make_double_task


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float]) -> list[str]:
    """Let backends take so long per network and batch; returns what is measured, in turn."""
    measured: list[str] = []

    def measure(self: Calibration, contenders: Mapping[str, object]) -> None:
        measured.extend(contenders)
        self._seconds.update({name: seconds[name] for name in contenders})

    monkeypatch.setattr(Calibration, "_measure", measure)
    monkeypatch.setattr(Calibration, "_gradient_seconds", lambda *_: seconds["rows"])
    monkeypatch.setattr(CompiledSteps, "_compile", lambda *_: Compiled(lambda *_: []))
    if "native" not in seconds:
        monkeypatch.setattr(Calibration, "_native_model", lambda *_: None)
    return measured


def open_study(model: str = "mlp", backend: str = "auto", **arguments: object) -> str:
    study = make_study(**arguments)
    loop = esgd.ESGDTrainer(make_task(model), backend=backend).open(study)
    return loop.configuration.backend


# 20 generations of 4 networks, 2 epochs of 3 batches each: 480 batches.
@needs_compiler
@pytest.mark.parametrize(
    ("seconds", "chosen", "n_measured"),
    [
        ({"rows": 0.06, "native": 0.001}, "native", 0),  # 29 s: not worth measuring
        ({"rows": 0.07, "batched": 0.02, "native": 0.005}, "native", 3),
        ({"rows": 0.1, "batched": 0.02, "native": 0.005}, "native", 3),
        ({"rows": 0.1, "batched": 0.02, "native": 0.019}, "batched", 3),
        ({"rows": 0.1, "batched": 0.2, "native": 0.15}, "rows", 3),
        # 480 s and more: worth compiling, unless the kernel is much faster already.
        ({"rows": 5.0, "batched": 2.0, "native": 0.9}, "native", 3),
        ({"rows": 5.0, "batched": 2.0, "native": 1.5, "compiled": 1.0}, "compiled", 5),
        ({"rows": 5.0, "batched": 2.0, "native": 1.5, "compiled": 1.4}, "native", 5),
    ],
)
def test_a_kernel_is_chosen_where_it_is_fastest(
    seconds: dict[str, float], chosen: str, n_measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = pretend(monkeypatch, seconds)
    monkeypatch.setattr(calibration, "_NATIVE_RUN_GRADIENTS", 480)
    assert open_study("mlp") == chosen
    assert len(measured) == n_measured


@needs_compiler
@pytest.mark.parametrize("rows", [1e-6, 0.02])
def test_short_studies_choose_by_their_length_alone(
    rows: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"rows": rows, "native": 0.001})
    for least, chosen in ((480, "native"), (481, "batched")):
        monkeypatch.setattr(calibration, "_NATIVE_RUN_GRADIENTS", least)
        assert open_study("mlp", name=chosen) == chosen


@needs_compiler
def test_what_has_no_kernel_is_not_chosen_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = pretend(monkeypatch, {"rows": 0.02, "native": 0.001})
    monkeypatch.setattr(calibration, "_NATIVE_RUN_GRADIENTS", 1)
    assert open_study("batch-norm") == "batched"
    assert open_study("branching", name="another") == "batched"
    assert measured == []


@pytest.mark.parametrize(
    ("name", "seconds", "chosen"),
    [
        ("mlp", {"rows": 0.02}, "batched"),  # 10 s: not worth measuring
        ("mlp", {"rows": 0.1, "batched": 0.02}, "batched"),  # 10 s: not worth compiling
        ("mlp", {"rows": 1.0, "batched": 0.2, "compiled": 0.1}, "compiled"),
        ("mlp", {"rows": 1.0, "batched": 0.2, "compiled": 0.19}, "batched"),
        ("mlp", {"rows": 0.1, "batched": 0.2}, "rows"),
        ("mlp", {"rows": 0.1, "batched": 0.105}, "batched"),  # not clearly slower
        ("convolution", {"rows": 0.1, "batched": 0.2, "channels_last": 0.05}, "channels_last"),
        ("branching", {"rows": 0.1}, "rows"),
    ],
)
def test_the_fastest_backend_is_chosen_where_it_matters(
    name: str, seconds: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = pretend(monkeypatch, seconds)
    assert open_study(name) == chosen
    assert set(measured) == (set() if seconds["rows"] < 0.03 else set(seconds))


def test_a_real_calibration_measures_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calibration, "_SHORT_RUN_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "_COMPILED_RUN_SECONDS", 1e9)
    with caplog.at_level(logging.INFO, "optuna_esgd"):
        backend = open_study("convolution")
    said = [one.getMessage() for one in caplog.records if "Speed measured" in one.getMessage()]
    assert len(said) == 1
    assert f"backend={backend!r}" in said[0]
    assert all(name in said[0] for name in ("rows 1.00", "batched", "channels_last"))


def test_the_first_measurement_counts_for_every_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    pretend(monkeypatch, {"rows": 0.1, "batched": 0.2})
    assert open_study(storage=storage) == "rows"
    pretend(monkeypatch, {"rows": 0.2, "batched": 0.1})
    assert open_study(storage=storage) == "rows"
    assert open_study(storage=storage, name="another") == "batched"


def test_workers_that_measure_at_the_same_time_agree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While the second one measures, the first one stores what it found."""
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    study = make_study(storage=storage)
    chosen = iter(["rows", "batched"])
    first = esgd.ESGDTrainer(make_task())
    second = esgd.ESGDTrainer(make_task())

    def choose(self: Calibration) -> str:
        mine = next(chosen)
        if mine == "rows":
            assert second.open(make_study(storage=storage)).configuration.backend == "batched"
        return mine

    monkeypatch.setattr(Calibration, "choose", choose)
    assert first.open(study).configuration.backend == "batched"


def test_a_named_backend_must_be_the_study_s() -> None:
    storage = optuna.storages.InMemoryStorage()
    assert open_study(backend="rows", storage=storage) == "rows"
    assert open_study(backend="rows", storage=storage) == "rows"
    assert open_study(backend="auto", storage=storage) == "rows"
    with pytest.raises(ConfigurationError, match="backend is 'rows' in the study and 'batched'"):
        open_study(backend="batched", storage=storage)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'auto' or one of"):
        esgd.ESGDTrainer(make_task(), backend="turbo")


@pytest.mark.parametrize("backend", ["rows", "channels_last"])
def test_every_backend_trains_alike(backend: str) -> None:
    results = []
    for one in ("batched", backend):
        task = make_double_task("convolution")
        study = make_study(back_off="best")
        study.optimize(esgd.ESGDTrainer(task, backend=one), n_trials=8)
        results.append(final_weights(study, task))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
