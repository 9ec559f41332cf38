"""The benchmarks of training at toy size: that they measure the real thing, not its speed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.benchmarks import kernels, models, training
from tests.benchmarks.__main__ import LEFT_OUT, find_benchmarks, main
from tests.benchmarks.cohorts import Load, Ours, Plain
from tests.benchmarks.networks import NETWORKS
from tests.native.builds import needs_compiler

SMALL = Load(network="MLP 64-64-10", population_size=4, n_examples=20, batch_size=8)


def test_ours_and_the_plain_loop_train_the_same_networks() -> None:
    ours = Ours(SMALL, "batched")
    plain = Plain(SMALL, ours.individuals)
    before = ours.training.weights.clone()
    ours.train_epoch()
    plain.train_epoch()
    assert {one.species for one in ours.individuals} == {"SGD", "Adam"}
    for block, old in zip(ours.training.weights.trainable(), before.trainable(), strict=True):
        assert (block != old).any(dim=1).all()
    names = [type(one).__name__ for one in plain._optimizers]
    assert names == [one.species for one in ours.individuals]


@pytest.mark.slow
def test_training_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    report = training.measure(SMALL, n_rounds=1)
    assert [row.goal for row in report.rows if row.goal] == [20.0, 35.0]
    assert all(row.value > 0 for row in report.rows)


@needs_compiler
def test_kernels_are_measured() -> None:
    report = kernels.measure([kernels.Size((4, 3, 2), 8, 2)], n_rounds=1)
    assert [row.measured.partition(": ")[2] for row in report.rows] == [
        "gradients, batched / native",
        "scores, batched / native",
        "compiling",
    ]
    assert all(row.value > 0 for row in report.rows)


@pytest.mark.slow
def test_larger_networks_are_measured() -> None:
    load = replace(SMALL, network="GRU 128", population_size=4, n_examples=4, batch_size=2)
    report = models.measure([load], n_rounds=1)
    assert len(report.rows) == 2
    assert "samples/s" in report.rows[0].notes


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_their_examples(name: str) -> None:
    task = NETWORKS[name].task(n_examples=3, batch_size=2, precision="float32")
    assert torch.isfinite(torch.tensor(task.fitness(task.build_model())))


def test_benchmarks_are_found_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    found = find_benchmarks()
    assert {"training", "models"} <= set(found)
    assert LEFT_OUT.keys() <= set(found)
    assert not {"harness", "networks", "cohorts"} & set(found)
    with pytest.raises(SystemExit):
        main(["no-such-benchmark"])
    assert "there is no benchmark 'no-such-benchmark'" in capsys.readouterr().err
