"""Schedules, batches by error and dropout rates in a population."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import BatchSampler, RandomSampler

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.sampling import OddballSampler
from optuna_esgd.schedules import PartitionedTraining, mutual_information_decay
from optuna_esgd.species import SGD, Species
from optuna_esgd.store.verification import verify
from optuna_esgd.trainer.guidance import described
from optuna_esgd.trainer.results import open_results
from tests.trainer.models import examples
from tests.trainer.studies import make_study, make_task


def evenly(n: int, batch_size: int, generator: torch.Generator) -> BatchSampler:
    """A sampler that knows nothing of errors."""
    order = RandomSampler(range(n), generator=generator)
    return BatchSampler(order, batch_size, drop_last=True)


GUIDES: dict[str, dict[str, Any]] = {
    "cosine": {"schedule": "cosine"},
    "momentum annealing": {"schedule": "momentum_annealing"},
    "mutual information": {"schedule": partial(mutual_information_decay, threshold=1e9)},
    "oddball": {"batches": "oddball"},
    "importance": {"batches": "importance"},
    "squared errors": {"batches": partial(OddballSampler, alpha=2)},
    "plain sampler": {"batches": evenly},
    "dropout": {"dropout": (0.1, 0.5)},
    "all": {"schedule": "cosine", "batches": "oddball", "dropout": (0.1, 0.5)},
}


def train(study: optuna.Study, n_trials: int = 12, **arguments: Any) -> optuna.Study:
    trainer = esgd.ESGDTrainer(make_task("dropout", **arguments), cohort_size=2)
    study.optimize(trainer, n_trials=n_trials)
    return study


def facts(study: optuna.Study) -> list[Any]:
    return [
        (one.reference, one.species, one.hyperparameters, one.weights, one.fitness)
        for one in open_results(study).individuals()
        if one.fitness is not None
    ]


@pytest.mark.parametrize("name", GUIDES)
def test_the_guarantee_holds_and_trials_show_what_was_trained_with(name: str) -> None:
    study = train(make_study(back_off="step"), 8, **GUIDES[name])
    assert verify(open_results(study)) == []
    for trial in study.trials:
        individual = open_results(study).individual_of_trial(trial.number)
        assert individual is not None
        shown = {key: value for key, value in trial.params.items() if key != "species"}
        assert shown == dict(individual.hyperparameters)
        assert ("dropout" in shown) == ("dropout" in GUIDES[name])


@pytest.mark.parametrize("name", GUIDES)
def test_workers_in_turn_are_bit_identical_to_one(name: str, tmp_path: Path) -> None:
    alone = train(make_study(), 8, **GUIDES[name])
    url = f"sqlite:///{tmp_path}/esgd.db"
    for n_trials in (1, 2, 5):
        shared = train(make_study(storage=url), n_trials, **GUIDES[name])
    assert facts(alone) == facts(shared)


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_makes_a_difference(name: str) -> None:
    guided, plain = train(make_study(), 4, **GUIDES[name]), train(make_study(), 4)
    assert [f[3] for f in facts(guided)] != [f[3] for f in facts(plain)]


class Recording(SGD):
    """SGD that notes what each step is taken with."""

    def __init__(self) -> None:
        super().__init__(lr=[0.125], momentum=[0.5], weight_decay=0.0)
        self.steps: list[tuple[float, float]] = []

    def build(self, *arguments: Any) -> torch.optim.Optimizer:
        optimizer = super().build(*arguments)

        def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            group = optimizer.param_groups[0]
            self.steps.append((group["lr"], group["momentum"]))

        optimizer.register_step_pre_hook(note)
        return optimizer


def halving(optimizer: torch.optim.Optimizer, n_steps: int) -> LRScheduler:
    """Every two batches."""
    assert n_steps in (2, 3 * 3)
    return StepLR(optimizer, step_size=2, gamma=0.5)


@pytest.mark.parametrize("back_off", ["step", "best"])
def test_a_schedule_spans_the_sgd_step_and_begins_anew_from_what_the_trial_shows(
    back_off: str,
) -> None:
    species = Recording()
    study = make_study(2, n_epochs=3, back_off=back_off, n_offspring=0)
    task = make_task(schedule=halving)  # three batches in an epoch
    study.optimize(esgd.ESGDTrainer(task, species=[species], cohort_size=1), n_trials=4)
    expected = [0.125 * 0.5 ** (step // 2) for step in range(9)]
    assert [rate for rate, _ in species.steps] == expected * 4
    assert {trial.params["lr"] for trial in study.trials} == {0.125}


def test_momentum_annealing_by_name() -> None:
    species = Recording()
    study = make_study(2, n_epochs=2)
    task = make_task(schedule="momentum_annealing")
    study.optimize(esgd.ESGDTrainer(task, species=[species], cohort_size=1), n_trials=1)
    assert [m for _, m in species.steps] == pytest.approx(
        [0.5, 0.5, 0.5, 0.5, 0.5 * 2 / 3, 0.5 / 3]
    )


def test_a_schedule_that_a_species_cannot_follow_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"momentum_annealing .* species 'Adagrad'"):
        esgd.ESGDTrainer(make_task(schedule="momentum_annealing"), species=["SGD", "Adagrad"])


def test_importance_weights_reach_the_loss() -> None:
    """With α = 0 both kinds draw the same examples, and all weights are 1."""
    even = partial(OddballSampler, alpha=0.0)
    runs = [
        facts(train(make_study(), 4, batches=partial(even, importance_weights=weighed)))
        for weighed in (False, True)
    ]
    for one, other in zip(*runs, strict=True):
        assert one[4] == pytest.approx(other[4], rel=1e-5)
    odd = [
        [f[4] for f in facts(train(make_study(), 4, batches=name))]
        for name in ("oddball", "importance")
    ]
    assert odd[0] != odd[1]


def test_batches_of_a_dataset() -> None:
    class Listed(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Any:
            inputs, targets = examples("dropout")
            return inputs[index], targets[index]

    digests = [
        [f[3] for f in facts(train(make_study(), 4, batches="oddball", **arguments))[:4]]
        for arguments in ({}, {"train": Listed()})
    ]
    assert digests[0] == digests[1]


def test_a_loss_that_cannot_be_taken_apart_is_refused() -> None:
    def host_loss(outputs: Any, targets: Any) -> torch.Tensor:
        if float(outputs.sum()) > 1e9:
            raise AssertionError
        return nn.functional.cross_entropy(outputs, targets)

    with pytest.raises(TaskError, match="loss of each example"):
        train(make_study(), 1, batches="oddball", loss=host_loss)


def test_the_dropout_rate_is_inherited_and_trained_with() -> None:
    rates: list[set[float]] = []

    class Watching(esgd.SupervisedTask):
        def train_epoch(self, model: Any, optimizer: Any, epoch: esgd.Epoch) -> int:
            spent = super().train_epoch(model, optimizer, epoch)
            found = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
            rates.append(found)
            assert found == {epoch.hyperparameters["dropout"]}
            return spent

    plain = make_task("dropout")
    task = Watching(
        model=plain.model,
        loss=plain.loss,
        train=examples("dropout", 0),
        validation=examples("dropout", 1),
        dropout=(0.1, 0.5),
    )
    study = make_study(resample_probability=0.0)
    study.optimize(esgd.ESGDTrainer(task), n_trials=12)
    assert len(rates) == 12 * 2
    population = {one.reference: one for one in open_results(study).individuals()}
    for one in population.values():
        if one.birth in ("elite", "survivor") and one.origin is not None:
            before = float(population[one.origin].hyperparameters["dropout"])  # type: ignore[arg-type]
            after = float(one.hyperparameters["dropout"])  # type: ignore[arg-type]
            assert 0.1 <= after <= 0.5
            assert (
                after / before == pytest.approx(0.8)
                or after / before == pytest.approx(1.25)
                or min(after - 0.1, 0.5 - after) < 0.125
            )


@pytest.mark.parametrize("dropout", [0.5, (0.0, 1.0), (-0.1, 0.5), (0.1, 0.2, 0.3), "rate"])
def test_refuses_what_is_no_dropout_rate(dropout: Any) -> None:
    with pytest.raises(ConfigurationError):
        make_task("dropout", dropout=dropout)


def test_refuses_dropout_that_makes_no_difference() -> None:
    with pytest.raises(TaskError, match="Sequential has no dropout layer"):
        esgd.ESGDTrainer(make_task("mlp", dropout=(0.0, 0.5))).open(make_study())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"schedule": "cosin"},
            r"one of \['cosine', 'momentum_.*', 'mutual_.*'\], .* got 'cosin'",
        ),
        ({"schedule": 3}, "got 3"),
        ({"batches": "odd"}, r"one of \['importance', 'oddball'\], .* got 'odd'"),
    ],
)
def test_refuses_what_does_not_guide(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make_task(**arguments)


def test_a_task_and_a_species_cannot_search_the_same_name() -> None:
    class Optimizer(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1, dropout: float = 0.0) -> None:
            super().__init__(params, lr=lr)

    with pytest.raises(ConfigurationError, match="searches 'dropout', and so does species 'Own'"):
        esgd.ESGDTrainer(
            make_task("dropout", dropout=(0.1, 0.5)),
            species=[Species(Optimizer, name="Own", dropout=(0.0, 1.0))],
        )


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, {"schedule": "cosine"}, "schedule is None in the study and 'cosine' here"),
        (
            {"batches": "oddball"},
            {"batches": "importance"},
            r"OddballSampler\(importance_weights=True\)",
        ),
        ({"dropout": (0.1, 0.5)}, {"dropout": (0.1, 0.4)}, "task's 'dropout'"),
    ],
)
def test_a_study_remembers_its_guides(
    first: dict[str, Any], second: dict[str, Any], words: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    train(make_study(storage=url), 1, **first)
    with pytest.raises(ConfigurationError, match=words):
        train(make_study(storage=url), 1, **second)


def test_functions_are_described_by_name_and_fixed_arguments() -> None:
    assert described(None) is None
    assert described(halving) == "halving"
    assert described(partial(OddballSampler, alpha=2, floor=0.1)) == (
        "OddballSampler(alpha=2, floor=0.1)"
    )


class PartitionedTask(esgd.SupervisedTask):
    """One partition trains per generation."""

    def train_epoch(self, model: Any, optimizer: Any, epoch: esgd.Epoch) -> int:
        model.phase = epoch.generation % model.n_phases
        return super().train_epoch(model, optimizer, epoch)


def partitioned_model() -> PartitionedTraining:
    partitions = [nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8))]
    return PartitionedTraining(partitions, [nn.Linear(8, 3), nn.Linear(8, 3)])


def test_in_each_generation_one_partition_and_its_proxy_train() -> None:
    task = PartitionedTask(
        model=partitioned_model,
        loss=nn.functional.cross_entropy,
        train=examples("mlp", 0),
        validation=examples("mlp", 1),
        batch_size=8,
    )
    study, trainer = make_study(n_offspring=0, n_elites=4), esgd.ESGDTrainer(task)
    weights: dict[Any, dict[str, torch.Tensor]] = {}
    n_changed = 0
    for generation in range(4):
        study.optimize(trainer, n_trials=4)
        for one in open_results(study).individuals(generation=generation):
            assert one.trial_number is not None
            trial = study.trials[one.trial_number]
            model = esgd.load_individual(study, trial, partitioned_model())
            trained = {id(parameter) for parameter in model.phase_parameters(generation % 2)}
            weights[one.reference] = {n: p.detach() for n, p in model.named_parameters()}
            if one.origin is None:
                continue
            for name, parameter in model.named_parameters():
                changed = not torch.equal(parameter, weights[one.origin][name])
                assert not changed or id(parameter) in trained
                n_changed += changed
    assert n_changed > 0
