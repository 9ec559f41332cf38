"""Whole runs with a kernel in C beside batched ones, and what happens where there is none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own abbreviation)
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.native.kernel import Kernel
from optuna_esgd.species import SGD, Adam, AdamW, EntropySGD, Species
from optuna_esgd.trainer.native_model import NativeModel
from optuna_esgd.trainer.workshop import TaskWorkshop
from tests.native.builds import needs_compiler
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_batched import final_weights
from tests.trainer.test_checkpoints import train as train_with_stops
from tests.trainer.test_replay import check as check_replay

CPU = torch.device("cpu")


def smooth() -> nn.Module:
    """Without kinks, so that rounding stays rounding."""
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))


def species() -> list[Species]:
    """Rules in C, one in tensors, one without a rule, one that evaluates the loss itself."""
    return [
        SGD(lr=(1e-3, 1e-2)),
        Adam(lr=(1e-4, 1e-3)),
        AdamW(lr=(1e-4, 1e-3)),
        Species(torch.optim.ASGD, lr=0.01),
        EntropySGD(lr=(1e-3, 1e-2)),
    ]


def run(backend: str, task: esgd.SupervisedTask, n_trials: int = 10, **settings: Any) -> Any:
    study = make_study(10, seed=3, back_off="best", **settings)
    trainer = esgd.ESGDTrainer(task, species=species(), backend=backend, device="cpu")
    study.optimize(trainer, n_trials=n_trials)
    return study, final_weights(study, task)


def watch(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often kernels were called."""
    calls = {"train": 0, "losses": 0, "outputs": 0}
    for name in calls:
        method = getattr(Kernel, name)

        def counted(*arguments: Any, name: str = name, method: Any = method) -> Any:
            calls[name] += 1
            return method(*arguments)

        monkeypatch.setattr(Kernel, name, counted)
    return calls


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=-1) != targets).float().mean()


def squared_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets).square()


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))


@needs_compiler
@pytest.mark.parametrize("metric", [None, accuracy])
@pytest.mark.parametrize("model", [smooth, dropping])
def test_a_generation_is_the_batched_one_up_to_rounding(
    model: Callable[[], nn.Module],
    metric: Callable[..., Tensor] | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = watch(monkeypatch)
    task = make_task(model=model, metric=metric)
    study, weights = run("native", task)
    assert calls["train"] > 0
    # Both are tried once.
    assert (calls["losses"] > 1) == (metric is None)
    assert (calls["outputs"] > 1) == (metric is not None)
    assert "kernel" not in caplog.text
    n_calls = dict(calls)
    batched_study, batched = run("batched", task)
    assert calls == n_calls
    for one, other in zip(weights, batched, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(study.trials, batched_study.trials, strict=True):
        assert mine.params == theirs.params
        assert mine.values[0] == pytest.approx(theirs.values[0], rel=1e-4, abs=0.05 * bool(metric))
        assert mine.user_attrs["gradients"] == theirs.user_attrs["gradients"]


@needs_compiler
def test_a_run_is_the_same_bits_twice() -> None:
    (_, first), (_, second) = (run("native", make_task(model=smooth), n_trials=30) for _ in "ab")
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@needs_compiler
@pytest.mark.parametrize("stops", [[1], [2, 3]])
def test_resumed_runs_end_at_the_same_bits(stops: list[int]) -> None:
    whole = train_with_stops("mlp", [], backend="native")
    assert train_with_stops("mlp", stops, backend="native") == whole


@needs_compiler
def test_a_cohort_of_another_size_trains_its_rows_to_the_same_bits() -> None:
    results = []
    for size in (10, 3):
        study = make_study(10, seed=3, back_off="best")
        trainer = esgd.ESGDTrainer(
            make_task(model=smooth), species=["SGD", "Adam"], backend="native", cohort_size=size
        )
        study.optimize(trainer, n_trials=10)
        results.append([(trial.params, trial.values) for trial in study.trials])
    assert sorted(map(str, results[0])) == sorted(map(str, results[1]))


@needs_compiler
def test_a_replay_needs_no_companions() -> None:
    """Nothing depends on the number of rows: ancestors end at the same bits alone."""
    study = make_study(6)
    trainer = esgd.ESGDTrainer(
        make_task(model=dropping), species=["SGD", "Adam", "Rprop"], backend="native"
    )
    study.optimize(trainer, n_trials=18)
    assert check_replay(study, trainer).n_companions == 0


@needs_compiler
def test_frozen_weights_stay_and_the_rest_trains() -> None:
    task = make_task("frozen")
    model = task.build_model()
    layout = Layout.of(model)
    native = NativeModel(task, model, layout, CPU)
    assert native.why_not_trained is None
    weights = Matrix.zeros(layout, 2, CPU)
    for row in range(2):
        weights.take_from(model, row)
    numbers = torch.arange(8).expand(2, 8)
    losses, [block] = native.batch_gradients(weights, numbers, torch.zeros(2, dtype=torch.int64))
    assert block.shape == weights.trainable()[0].shape
    trainable = [one for one in model.parameters() if one.requires_grad]
    inputs, targets = (part[:8] for part in task.train.on(CPU))
    loss = task.loss(model(inputs), targets)
    expected = torch.cat([one.flatten() for one in torch.autograd.grad(loss, trainable)])
    torch.testing.assert_close(block[1], expected, rtol=1e-4, atol=1e-6)
    assert float(losses[0]) == pytest.approx(float(loss), rel=1e-5)


def fortran(part: Tensor) -> Tensor:
    return part.T.contiguous().T


@needs_compiler
def test_examples_that_lie_column_by_column_train_alike() -> None:
    losses = []
    for order in (fortran, Tensor.contiguous):
        inputs, targets = examples("mlp", 0)
        task = make_task(train=(order(inputs), targets), validation=(order(inputs), targets))
        losses.append([trial.value for trial in run("native", task)[0].trials])
    assert losses[0] == losses[1]


def of_mlp(seed: int) -> tuple[Tensor, Tensor]:
    return examples("mlp", seed)


def dropout_first() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 3))


def doubled() -> nn.Module:
    return smooth().double()


class HalfInside(nn.Module):
    """A network that computes in half precision by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = smooth()

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(inputs)  # type: ignore[no-any-return]


def exchanged() -> nn.Module:
    """Its last layer says that it has other outputs than its weights."""
    model = smooth()
    model[2].out_features = 1000  # type: ignore[assignment,index]
    return model


def weighed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


REASONS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "batch-norm": ({"model": MODELS["batch-norm"][0]}, "no C for BatchNorm1d", False),
    "dropout": ({"model": dropout_first}, "dropout that does not follow a layer", True),
    "tied": ({"model": MODELS["tied"][0]}, "shared", False),
    "double": ({"model": doubled}, "not all of float32", False),
    "bfloat16": ({"precision": "bfloat16"}, "precision is 'bfloat16'", False),
    "own autocast": ({"model": HalfInside}, "its outputs are of", False),
    "exchanged": ({"model": exchanged}, "weights of other shapes", False),
    "loss": ({"loss": weighed_loss}, "a setting of its own, label_smoothing", True),
}


@needs_compiler
@pytest.mark.parametrize("name", REASONS)
def test_what_no_kernel_can_do_trains_batched_and_says_why_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings, reason, is_scored = REASONS[name]
    if name == "double":
        parts = [(inputs.double(), targets) for inputs, targets in map(of_mlp, (0, 1))]
        settings = {**settings, "train": parts[0], "validation": parts[1]}
    values = []
    for backend in ("native", "batched"):
        with caplog.at_level(logging.WARNING, "optuna_esgd"):
            study = make_study()
            trainer = esgd.ESGDTrainer(make_task(**settings), backend=backend, device="cpu")
            study.optimize(trainer, n_trials=8)
        values.append([trial.value for trial in study.trials])
    if is_scored:
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    else:
        assert values[0] == values[1]
    warnings = [one.getMessage() for one in caplog.records if "kernel in C" in one.getMessage()]
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert ("and are scored" in warnings[0]) != is_scored


def test_without_a_compiler_networks_train_batched_and_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    values = []
    for backend in ("native", "batched"):
        with caplog.at_level(logging.WARNING, "optuna_esgd"):
            study = make_study()
            study.optimize(esgd.ESGDTrainer(make_task(), backend=backend), n_trials=8)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]
    assert caplog.text.count("there is no C compiler (no-such-compiler)") == 1


@needs_compiler
def test_torch_s_defaults_may_change() -> None:
    task = make_task()
    model = NativeModel(task, task.build_model(), Layout.of(task.build_model()), CPU)
    weights = Matrix.zeros(Layout.of(task.build_model()), 2)
    weights.take_from(task.build_model(), 0)
    numbers, keys = torch.arange(8).expand(2, 8), torch.tensor([0, 1])
    losses, [gradients] = model.batch_gradients(weights, numbers, keys)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        others, [other_gradients] = model.batch_gradients(weights, numbers, keys)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(losses, others)
    assert torch.equal(gradients, other_gradients)


@needs_compiler
def test_what_is_undefined_agrees_with_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def build() -> nn.Module:
        model = smooth()
        nn.init.constant_(model[2].weight, 3e38)  # type: ignore[index,arg-type]
        return model

    model = NativeModel(make_task(model=build), build(), Layout.of(build()), CPU)
    assert model.why_not_trained is not None


@needs_compiler
def test_a_kernel_that_disagrees_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train = Kernel.train

    def wrong(self: Kernel, *arguments: Any) -> Tensor:
        losses = train(self, *arguments)
        arguments[4][:, 0] += 1
        return losses

    monkeypatch.setattr(Kernel, "train", wrong)
    study = make_study()
    with caplog.at_level(logging.WARNING, "optuna_esgd"):
        study.optimize(esgd.ESGDTrainer(make_task(), backend="native"), n_trials=4)
    assert "its kernel and plain PyTorch disagree" in caplog.text


@needs_compiler
@pytest.mark.parametrize("name", ["losses", "outputs"])
def test_a_kernel_that_scores_otherwise_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(Kernel, name)
    monkeypatch.setattr(Kernel, name, lambda *arguments: 1.1 * right(*arguments))
    task = make_task()
    model = task.build_model()
    native = NativeModel(task, model, Layout.of(model), CPU)
    assert native.why_not_trained is None
    assert native.why_not_scored == "its kernel and plain PyTorch disagree"


@needs_compiler
@pytest.mark.parametrize("metric", [None, squared_loss])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_diverged_networks_have_infinite_fitness(
    bad: float, metric: Callable[..., Tensor] | None
) -> None:
    task = make_task(metric=metric)
    loop = esgd.ESGDTrainer(task, backend="native", device="cpu").open(make_study())
    assert isinstance(loop.workshop, TaskWorkshop)
    model = task.build_model()
    weights = Matrix.zeros(Layout.of(model), 3, CPU)
    for row in range(3):
        weights.take_from(model, row)
    [block] = weights.trainable()
    block[1] = bad * torch.randn(block.shape[1]).sign()
    first, diverged, last = loop.workshop.score(weights)
    assert first == last < diverged
    assert diverged == math.inf or (bad == 1e30 and diverged > 1e20)
