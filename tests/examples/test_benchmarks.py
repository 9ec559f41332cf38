"""Every benchmark learns something in a short run, and keeps its test set apart."""

from __future__ import annotations

import importlib
import math

import optuna
import pytest
import speech_data
import torch
from digits_data import load_examples as load_digits_examples
from torch import Tensor

import optuna_esgd as esgd

# module -> name -> the loss of somebody who guesses: all classes equally likely, or the mean
GUESSING = {
    "digits": dict.fromkeys(("mlp", "noisy_mlp", "cnn", "noisy_cnn"), math.log(10)),
    "speech": {"dnn": math.log(30), "lstm": math.log(10)},
    "language": dict.fromkeys(("lstm", "transformer"), math.log(37)),
    "tabular": {"diabetes": 1.0, "breast_cancer": math.log(2), "wine": math.log(3)},
}
BENCHMARKS = [(module, name) for module, names in GUESSING.items() for name in names]
ROW_BY_ROW = {("speech", "lstm"), ("language", "lstm"), ("language", "transformer")}


def build(module: str, name: str, seed: int = 0) -> esgd.Benchmark:
    benchmark = getattr(importlib.import_module(f"{module}_esgd"), name)(seed)
    assert isinstance(benchmark, esgd.Benchmark)
    return benchmark


def tensors(benchmark: esgd.Benchmark) -> dict[str, tuple[Tensor, Tensor]]:
    task = benchmark.task
    assert isinstance(task, esgd.SupervisedTask)
    assert task.train.tensors is not None
    assert task.validation.tensors is not None
    return {"train": task.train.tensors, "validation": task.validation.tensors}


@pytest.mark.parametrize("module", GUESSING)
def test_the_trainer_of_a_file_is_its_first_benchmark_with_seed_0(module: str) -> None:
    trainer = importlib.import_module(f"{module}_esgd").trainer
    assert isinstance(trainer, esgd.ESGDTrainer)
    first = build(module, next(iter(GUESSING[module])))
    assert trainer.task.describe() == first.task.describe()


@pytest.mark.parametrize(("module", "name"), BENCHMARKS)
def test_the_seed_draws_the_data(module: str, name: str) -> None:
    described = [build(module, name, seed).task.describe() for seed in (3, 3, 4)]
    assert described[0] == described[1]
    assert described[0]["training data"] != described[2]["training data"]
    assert described[0]["validation data"] != described[2]["validation data"]


@pytest.mark.parametrize(("module", "name"), BENCHMARKS)
def test_plain_and_population_learn_from_the_same(module: str, name: str) -> None:
    shared = importlib.import_module(f"{module}_data")
    variant = shared.VARIANTS[name]
    if module == "digits":
        train, validation, _ = shared.load_examples(0, label_noise=variant.label_noise)
    elif module == "speech":
        train, validation, _ = variant.load_examples(0)
    elif module == "tabular":
        train, validation, _ = shared.load_examples(name, 0)
    else:
        train, validation, _ = shared.load_examples(0)
    benchmark = build(module, name)
    for part, expected in {"train": train, "validation": validation}.items():
        for got, wanted in zip(tensors(benchmark)[part], expected, strict=True):
            assert torch.equal(got, wanted)
    assert benchmark.recipe.settings == variant.settings


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), BENCHMARKS)
def test_a_plain_network_does_better_than_guessing(module: str, name: str) -> None:
    scores = importlib.import_module(f"{module}_plain").main(name, n_epochs=2)
    assert scores["validation loss"] < GUESSING[module][name]
    assert scores["test loss"] < GUESSING[module][name]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), BENCHMARKS)
def test_a_small_population_does_better_than_guessing(
    module: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    benchmark = build(module, name)
    sampler = esgd.ESGDSampler(2, n_epochs=1, n_offspring=2, seed=0)
    study = optuna.create_study(sampler=sampler)
    with caplog.at_level("INFO", logger="optuna_esgd"):
        study.optimize(benchmark.trainer(), n_trials=4)
    model = esgd.load_best(study, benchmark.task.build_model())
    assert study.best_value < GUESSING[module][name]
    scores = benchmark.test(model)
    assert next(iter(scores)) == "loss"
    assert scores["loss"] < GUESSING[module][name]
    says_row_by_row = "row by row, not batched" in caplog.text  # calibration names rows as well
    assert says_row_by_row == ((module, name) in ROW_BY_ROW)


@pytest.mark.parametrize(
    ("module", "name"), [one for one in BENCHMARKS if one[0] in {"digits", "speech", "tabular"}]
)
def test_no_part_holds_an_example_of_another(module: str, name: str) -> None:
    benchmark = build(module, name, 1)
    assert isinstance(benchmark.test, esgd.HeldOut)
    parts = [inputs for inputs, _ in tensors(benchmark).values()]
    parts.append(benchmark.test.examples[0])  # type: ignore[index]
    rows = [{row.numpy().tobytes() for row in part} for part in parts]
    assert len(set.union(*rows)) == sum(len(part) for part in rows)


def test_nobody_heard_in_the_test_is_heard_before() -> None:
    for seed in range(5):
        speakers = torch.cat(speech_data.draw_speakers(seed))
        assert sorted(speakers.tolist()) == list(range(60))
    (train, _), (validation, _), (test, _) = speech_data.load_utterances(0)
    assert (len(train), len(validation), len(test)) == (36 * 30, 12 * 30, 12 * 30)


def test_label_noise_is_in_the_training_labels_only() -> None:
    clean, noisy = load_digits_examples(2), load_digits_examples(2, label_noise=0.3)
    for part in range(3):
        assert torch.equal(clean[part][0], noisy[part][0])
    wrong = (clean[0][1] != noisy[0][1]).float().mean().item()
    assert 0.22 < wrong <= 0.3  # one of ten random labels is right
    assert torch.equal(clean[1][1], noisy[1][1])
    assert torch.equal(clean[2][1], noisy[2][1])


def test_perplexity_is_among_how_many_letters_the_model_hesitates() -> None:
    from language_data import ALPHABET, cross_entropy, perplexity

    outputs = torch.zeros(2, 5, len(ALPHABET))
    loss = cross_entropy(outputs, torch.zeros(2, 5, dtype=torch.long)).item()
    assert perplexity(loss) == pytest.approx(len(ALPHABET))


def test_each_letter_is_followed_by_its_target() -> None:
    from language_data import load_examples

    for inputs, targets in load_examples(1):
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
