"""What epochs remember goes with the optimizer's state; schedules by information use it."""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.schedules import mutual_information, mutual_information_decay
from optuna_esgd.species import SGD
from optuna_esgd.trainer.preemption import Preempted
from optuna_esgd.trainer.results import open_results
from tests.trainer.models import N_EXAMPLES
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_checkpoints import PreemptionAfter, run

INFORMED = {"schedule": partial(mutual_information_decay, threshold=1e9)}  # settled at once


class Counting(esgd.Task):
    """One weight that moves by what is remembered: how many epochs this line has kept."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def build_model(self) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> int:
        count = epoch.memory.setdefault("count", torch.zeros(()))
        count += 1  # in place: whoever keeps a memory must have copied it
        model.weight.data += self.sign * count
        epoch.spending.n_forwards += 2
        return 0

    def fitness(self, model: nn.Module) -> float:
        return -float(model.weight)


def train(task: esgd.Task, n_generations: int, **settings: Any) -> list[float]:
    """Fitness by generation; nothing is random, so that both individuals are alike."""
    study = make_study(2, n_offspring=0, **settings)
    trainer = esgd.ESGDTrainer(task, species=["SGD"], cohort_size=1)
    study.optimize(trainer, n_trials=2 * n_generations)
    assert all(trial.user_attrs["forwards"] == 4 for trial in study.trials)
    values = [trial.value for trial in study.trials if trial.value is not None]
    assert values[::2] == values[1::2]
    return values[::2]


def test_a_memory_is_inherited_with_the_optimizers_state_or_not_at_all() -> None:
    kept = {"back_off": "none", "resample_probability": 0.0}
    assert train(Counting(1.0), 3, **kept) == [-3.0, -10.0, -21.0]  # 1 + 2, + 3 + 4, + 5 + 6
    fresh = {**kept, "inherit_optimizer_state": False}
    assert train(Counting(1.0), 3, **fresh) == [-3.0, -6.0, -9.0]


def test_a_memory_is_backed_off_with_the_weights() -> None:
    """Each epoch is undone, so that each begins with an empty memory."""

    class Watching(Counting):
        def train_epoch(self, model: Any, optimizer: Any, epoch: esgd.Epoch) -> int:
            assert epoch.memory == {}
            return super().train_epoch(model, optimizer, epoch)

    assert train(Watching(-1.0), 3, back_off="step") == [0.0, 0.0, 0.0]


def test_a_memory_of_what_is_no_tensor_is_refused() -> None:
    class Careless(Counting):
        def train_epoch(self, model: Any, optimizer: Any, epoch: esgd.Epoch) -> int:
            epoch.memory["count"] = 1  # type: ignore[assignment]
            model.weight.data += 1
            return 0

    with pytest.raises(TaskError, match=r"epoch\.memory\['count'\] must be a tensor, got int"):
        train(Careless(1.0), 1)


class Noting(SGD):
    """SGD that notes the learning rate of each step."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"lr": [0.5], "momentum": 0.0, "weight_decay": 0.0, **settings})
        self.rates: list[float] = []

    def build(self, *arguments: Any) -> torch.optim.Optimizer:
        optimizer = super().build(*arguments)

        def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self.rates.append(optimizer.param_groups[0]["lr"])

        optimizer.register_step_pre_hook(note)
        return optimizer


def test_the_rate_falls_with_what_is_known_and_never_rises_down_the_line() -> None:
    species = Noting()
    study = make_study(2, n_epochs=4, n_offspring=0, back_off="none")
    trainer = esgd.ESGDTrainer(make_task(**INFORMED), species=[species], cohort_size=1)
    study.optimize(trainer, n_trials=6)
    steps = 4 * 3  # of each individual in each generation, three mini-batches in an epoch
    assert len(species.rates) == 6 * steps
    for line in range(2):
        rates = [
            rate
            for generation in range(3)
            for rate in species.rates[(2 * generation + line) * steps :][:steps]
        ]
        assert rates[:3] == [0.5] * 3  # the first measurement has nothing to be compared with
        assert rates == sorted(rates, reverse=True)
        assert 0.005 <= rates[-1] < 0.45
        assert all(len(set(rates[start : start + 3])) == 1 for start in range(0, len(rates), 3))
    for trial in study.trials:
        assert trial.params["lr"] == 0.5
        # Four passes over three mini-batches, and one more forward pass each.
        assert trial.user_attrs["gradients"] == trial.user_attrs["forwards"] == steps


def test_the_rate_is_that_of_the_information_there_was() -> None:
    """Against the formula, from the weights an epoch begins with."""
    species, seen = Noting(), []
    task = make_task(**INFORMED)
    answers = task._answers

    def spy(model: nn.Module, epoch: esgd.Epoch) -> tuple[torch.Tensor, torch.Tensor]:
        predictions, targets = answers(model, epoch)
        assert predictions.shape == (N_EXAMPLES, 3)
        seen.append(mutual_information(predictions, targets) / entropy(targets))
        return predictions, targets

    task._answers = spy  # type: ignore[method-assign]
    study = make_study(2, n_epochs=5, back_off="none")
    study.optimize(esgd.ESGDTrainer(task, species=[species], cohort_size=1), n_trials=1)
    known, expected = 0.0, [0.5]
    for before, now in pairwise(seen):
        known = max(known, now if before > 0 else 0.0)  # from nothing, any change is large
        expected.append(0.5 - (0.5 - 0.005) * known)
    assert species.rates[::3] == pytest.approx(expected)
    assert known > 0


def entropy(targets: torch.Tensor) -> float:
    shares = targets.bincount() / len(targets)
    return float(-(shares * shares.log()).sum())


def weights_of(study: optuna.Study) -> list[Any]:
    return [
        (one.reference, one.weights, one.fitness)
        for one in open_results(study).individuals()
        if one.fitness is not None
    ]


@pytest.mark.parametrize("stops", [[1], [2, 3, 1]])
def test_who_goes_on_from_a_checkpoint_knows_what_was_known(stops: list[int]) -> None:
    def train(stops: list[int]) -> list[Any]:
        study = make_study(2, n_generations=2, n_epochs=3, back_off="step")
        for n_epochs in [*stops, 0]:
            task = make_task(**INFORMED)
            loop = esgd.ESGDTrainer(task, species=["SGD", "Adam"]).open(study)
            loop.preemption = PreemptionAfter(n_epochs or 10**9)
            with contextlib.suppress(Preempted) if n_epochs else contextlib.nullcontext():
                run(loop)
        return weights_of(study)

    assert train(stops) == train([])


def test_a_species_without_a_learning_rate_is_refused_at_once() -> None:
    words = r"schedule mutual_information_decay cannot be made for species 'ConditionedMutation'"
    with pytest.raises(ConfigurationError, match=words):
        esgd.ESGDTrainer(
            make_task(schedule="mutual_information"), species=["SGD", "ConditionedMutation"]
        )


def test_outputs_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    inputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    task = make_task(
        schedule="mutual_information",
        loss=nn.functional.mse_loss,
        train=(inputs, inputs[:, :3]),
        validation=(inputs, inputs[:, :3]),
    )
    with pytest.raises(ConfigurationError, match=r"one prediction .* per true class"):
        make_study().optimize(esgd.ESGDTrainer(task), n_trials=1)
