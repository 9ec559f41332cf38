"""What cannot work is refused before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.species import Species
from optuna_esgd.store.opening import find_population
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def double(part: Tensor) -> Tensor:
    return part.double() if part.is_floating_point() else part


@pytest.mark.parametrize("name", ["train", "validation"])
@pytest.mark.parametrize("kind", ["tensors", "dataset"])
def test_examples_of_another_precision_are_refused_before_training(kind: str, name: str) -> None:
    inputs, targets = (double(part) for part in examples("mlp", 0))
    given: Any = (inputs, targets)
    if kind == "dataset":
        given = DataLoader(TensorDataset(inputs, targets), batch_size=8)
    study = make_study()
    message = rf"the inputs of {name} are torch\.float64.*\.float\(\)"
    with pytest.raises(ConfigurationError, match=message):
        study.optimize(esgd.ESGDTrainer(make_task(**{name: given})), n_trials=1)
    assert find_population(study, None) is None


def test_targets_of_another_precision_are_refused_before_training() -> None:
    """The loss can be computed, but not its gradient."""
    inputs, _ = examples("mlp", 0)
    targets = MODELS["mlp"][0]()(inputs).detach().double()
    task = make_task(train=(inputs, targets), loss=nn.functional.huber_loss)
    with pytest.raises(ConfigurationError, match=r"targets of train are torch\.float64"):
        make_study().optimize(esgd.ESGDTrainer(task), n_trials=1)


def test_a_model_that_converts_its_inputs_may_have_them_as_it_likes() -> None:
    train, validation = (
        tuple(double(part) for part in examples("mlp", number)) for number in (0, 1)
    )
    task = make_task(train=train, validation=validation, model=Converting)
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    assert len(study.trials) == 4


class Converting(nn.Module):
    """Takes any precision."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MODELS["mlp"][0]()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs.float())
        return outputs


def by_example(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float()


def as_text(outputs: Tensor, targets: Tensor) -> Any:
    return f"{accuracy(outputs, targets):.2f}"


def nothing(outputs: Tensor, targets: Tensor) -> Any:
    return None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": by_example}, r"by_example returned a tensor of shape \(2,\) for 2"),
        ({"metric": as_text}, "metric must be one number .* as_text returned str"),
        ({"metric": nothing}, "nothing returned NoneType"),
        (
            {"metric": accuracy, "loss": nn.CrossEntropyLoss(reduction="none")},
            r"loss must be one number .* CrossEntropyLoss returned a tensor of shape \(2,\)",
        ),
    ],
)
def test_what_is_not_one_number_is_refused_before_training(
    given: dict[str, Any], message: str
) -> None:
    study = make_study(direction="maximize")
    with pytest.raises(ConfigurationError, match=message):
        study.optimize(esgd.ESGDTrainer(make_task(**given)), n_trials=1)
    assert find_population(study, None) is None


@pytest.mark.parametrize(
    "convert",
    [
        float,
        Tensor.numpy,
        lambda value: np.float32(value.item()),
        lambda value: Fraction(value.item()),
        lambda value: value.view(1, 1),
    ],
)
def test_a_metric_may_return_any_number(convert: Callable[[Tensor], Any]) -> None:
    def metric(outputs: Tensor, targets: Tensor) -> Any:
        return convert(accuracy(outputs, targets))

    task = make_task(metric=metric)
    study = make_study(direction="maximize")
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    assert study.best_value == task.fitness(esgd.load_best(study, task.build_model()))


def test_what_cannot_be_tried_on_two_examples_is_not_refused() -> None:
    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        if len(targets) == 2:
            raise ValueError("Only one class is present.")
        return accuracy(outputs, targets)

    study = make_study(direction="maximize")
    study.optimize(esgd.ESGDTrainer(make_task(metric=metric)), n_trials=4)
    assert len(study.trials) == 4


INPUTS, TARGETS = examples("mlp", 0)


class Named(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Items by name, as some libraries have them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": INPUTS[index], "y": TARGETS[index]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"validation": (INPUTS[:, :4], TARGETS)},
            r"of validation \(inputs: torch.float32 of shape \(2, 4\); targets: torch.int",
        ),
        ({"train": (INPUTS, TARGETS + 7)}, "first examples of train .*IndexError: Target"),
        ({"train": Named()}, "pairs of inputs and targets, .* is a dict of 'x', 'y'"),
        ({"train": TensorDataset(INPUTS, INPUTS, TARGETS)}, "batch of them is a list of 3"),
        ({"train": TensorDataset(INPUTS)}, "batch of them is a list of 1"),
        (
            {"validation": (INPUTS, TARGETS.float()), "metric": nn.functional.nll_loss},
            "metric of a new model cannot be computed on the first examples of validation",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_before_training(
    given: dict[str, Any], message: str
) -> None:
    study = make_study()
    with pytest.raises(ConfigurationError, match=message):
        study.optimize(esgd.ESGDTrainer(make_task(**given)), n_trials=1)
    assert find_population(study, None) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((INPUTS, torch.tensor(0)), "train must hold dense tensors .* got a single number"),
        (
            (INPUTS.to_sparse(), TARGETS),
            r"train must hold dense .* got a torch\.sparse_coo tensor",
        ),
    ],
)
def test_tensors_that_are_no_examples_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_task(train=given)


ALL = TensorDataset(INPUTS, TARGETS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sampler": SubsetRandomSampler(range(12))},
        {"sampler": WeightedRandomSampler(torch.ones(24), 24)},
        {"sampler": RandomSampler(ALL, replacement=True)},
        {"sampler": RandomSampler(ALL, num_samples=8)},
        {"batch_sampler": BatchSampler(SequentialSampler(ALL), 4, drop_last=False)},
        {"batch_sampler": [[0, 1], [2, 3]]},
    ],
)
@pytest.mark.parametrize("name", ["train", "validation"])
def test_loaders_that_choose_examples_themselves_are_refused(
    arguments: dict[str, Any], name: str
) -> None:
    """They would have been taken for loaders of all examples, those of the other half included."""
    own = type(next(iter(arguments.values()))).__name__
    message = rf"{name} is a DataLoader with a sampler of its own \({own}\).*Subset\(dataset"
    with pytest.raises(ConfigurationError, match=message):
        make_task(**{name: DataLoader(ALL, **arguments)})


def test_loaders_of_ready_made_batches_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_size=None, whose dataset makes batches"):
        make_task(train=DataLoader(ALL, batch_size=None))


@pytest.mark.parametrize("shuffle", [False, True])
def test_loaders_of_all_examples_are_taken(shuffle: bool) -> None:
    task = make_task(train=DataLoader(ALL, batch_size=6, shuffle=shuffle), batch_size=None)
    assert task.train.n_batches == 4


def test_a_model_for_whole_batches_is_not_refused() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MODELS["mlp"][0]()

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.inner(inputs.view(8, 6))
            return outputs

    task = make_task(model=Whole, batch_size=8, evaluation_batch_size=8)
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task, backend="rows"), n_trials=4)
    assert len(study.trials) == 4


def test_targets_that_fit_by_chance_are_refused_before_training() -> None:
    """Two outputs of two examples and two targets are taken for a table and a row."""
    task = make_task(
        model=lambda: nn.Linear(6, 2),
        loss=nn.MSELoss(),
        train=(INPUTS, INPUTS[:, 0]),
        validation=(INPUTS, INPUTS[:, 0]),
    )
    with (
        pytest.warns(UserWarning, match="target size"),
        pytest.raises(ConfigurationError, match="loss of a new model cannot be computed"),
    ):
        make_study().optimize(esgd.ESGDTrainer(task), n_trials=1)


def test_a_loss_without_a_gradient_is_refused_before_training() -> None:
    def number(outputs: Tensor, targets: Tensor) -> Any:
        return nn.functional.cross_entropy(outputs, targets).item()

    with pytest.raises(ConfigurationError, match=r"number returned float\. Leave out \.item"):
        make_study().optimize(esgd.ESGDTrainer(make_task(loss=number)), n_trials=1)


def add_up(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


@pytest.mark.parametrize("name", ["loss", "metric"])
def test_a_sum_is_refused_before_training(name: str) -> None:
    message = f"{name} must be the mean over a batch, but add_up returned the sum"
    with pytest.raises(ConfigurationError, match=message):
        make_study().optimize(esgd.ESGDTrainer(make_task(**{name: add_up})), n_trials=1)


@pytest.mark.parametrize(
    "metric",
    [
        lambda outputs, targets: outputs.var(),  # of one example there is none
        lambda outputs, targets: 0 * outputs.sum(),
        lambda outputs, targets: (outputs - outputs.mean(0)).square().mean(),
        lambda outputs, targets: torch.linalg.norm(outputs, dim=1).mean(),
    ],
)
def test_what_is_no_sum_is_not_refused(metric: Any) -> None:
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task(metric=metric)), n_trials=1)
    assert len(study.trials) == 1


def test_a_loss_that_is_not_finite_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task(train=(INPUTS * torch.nan, TARGETS))
    study = make_study()
    with caplog.at_level(logging.WARNING, "optuna_esgd"):
        study.optimize(esgd.ESGDTrainer(task), n_trials=1)
    assert "loss of a new model on the first examples of train is nan" in caplog.text


def test_a_criterion_is_no_class() -> None:
    with pytest.raises(ConfigurationError, match=r"write loss=CrossEntropyLoss\(\)"):
        make_task(loss=nn.CrossEntropyLoss)


@pytest.mark.parametrize("door", ["declared", "own"])
def test_one_model_for_all_is_refused_before_training(door: str) -> None:
    model = MODELS["mlp"][0]()
    task = make_task(model=lambda: model)
    if door == "own":

        class Own(esgd.Task):
            def build_model(self) -> nn.Module:
                return model

            def train_epoch(self, model: Any, optimizer: Any, epoch: esgd.Epoch) -> None:
                pass

            def fitness(self, model: nn.Module) -> float:
                return 0.0

        task = Own()  # type: ignore[assignment]
    study = make_study()
    with pytest.raises(ConfigurationError, match="returned the same model twice"):
        study.optimize(esgd.ESGDTrainer(task), n_trials=1)
    assert find_population(study, None) is None


def test_models_may_share_what_is_frozen() -> None:
    backbone = nn.Linear(6, 6).requires_grad_(False)
    task = make_task(model=lambda: nn.Sequential(backbone, nn.Linear(6, 3)))
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task), n_trials=1)
    assert len(study.trials) == 1


def test_a_last_batch_too_small_for_the_model_is_refused_before_training() -> None:
    """Else it would be noticed after everything else of the first epoch."""
    inputs, targets = examples("batch-norm", 0)
    task = make_task("batch-norm", train=(inputs[:17], targets[:17]))
    study = make_study()
    message = r"single example of 17, .* ValueError: Expected more than 1 value .* drop_last=True"
    with pytest.raises(ConfigurationError, match=message):
        study.optimize(esgd.ESGDTrainer(task), n_trials=1)
    assert find_population(study, None) is None


@pytest.mark.parametrize("name", ["mlp", "convolution"])
def test_a_last_batch_of_one_is_taken_where_the_model_takes_it(name: str) -> None:
    inputs, targets = examples(name, 0)
    study = make_study()
    task = make_task(name, train=(inputs[:17], targets[:17]))
    study.optimize(esgd.ESGDTrainer(task), n_trials=1)
    assert len(study.trials) == 1


class Words(nn.Module):
    """The mean of word vectors whose gradients are sparse."""

    def __init__(self, *, has_head: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 3, sparse=True)
        self.head = nn.Linear(3, 3) if has_head else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.words(inputs).mean(1))
        return outputs


WORDS = torch.arange(24 * 4).view(24, 4) % 9, TARGETS


@pytest.mark.parametrize(
    ("species", "has_head", "message"),
    [
        (["Adam"], False, "Species Adam cannot train .* 'words.weight' are sparse: Adam does"),
        (["SGD"], True, r"Species SGD cannot .* sparse: add\(sparse, dense\).*sparse=False"),
        ([torch.optim.SparseAdam], True, "SparseAdam does not support dense gradients"),
    ],
)
def test_sparse_gradients_that_a_species_does_not_take_are_refused_before_training(
    species: Any, has_head: bool, message: str
) -> None:
    """Else every epoch of everybody would fail, with warnings only."""
    task = make_task(model=lambda: Words(has_head=has_head), train=WORDS, validation=WORDS)
    study = make_study()
    with pytest.raises(ConfigurationError, match=message):
        study.optimize(esgd.ESGDTrainer(task, species=species), n_trials=1)
    assert find_population(study, None) is None


@pytest.mark.parametrize(
    "species",
    [
        Species(torch.optim.SparseAdam, lr=(1e-3, 1e-2)),
        Species(torch.optim.SGD, lr=(1e-3, 1e-1)),
    ],
)
def test_sparse_gradients_train_where_all_species_take_them(
    species: Any, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(model=lambda: Words(has_head=False), train=WORDS, validation=WORDS)
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task, species=[species]), n_trials=4)
    assert len(study.trials) == 4
    assert "cannot go on" not in caplog.text


def test_trying_leaves_what_models_share_as_it_was() -> None:
    backbone = nn.BatchNorm1d(6).requires_grad_(False)
    task = make_task(model=lambda: nn.Sequential(backbone, nn.Linear(6, 3)))
    esgd.ESGDTrainer(task).check([optuna.study.StudyDirection.MINIMIZE])
    assert torch.equal(backbone.running_mean, torch.zeros(6))
    assert backbone.training
