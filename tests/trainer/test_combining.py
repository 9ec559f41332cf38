"""Soups, ensembles, and how they compare with the single best."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Individual
from optuna_esgd.errors import ConfigurationError, TaskError, WeightsNotFoundError
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.combining import Ensemble, outputs_of
from optuna_esgd.trainer.results import last_population
from tests.trainer.models import examples
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_replay import Averaging

N_MEMBERS = 5


@pytest.fixture(scope="module")
def task() -> esgd.SupervisedTask:
    return make_task("batch-norm")


@pytest.fixture(scope="module")
def study(task: esgd.SupervisedTask) -> optuna.Study:
    study = make_study(N_MEMBERS)
    study.optimize(esgd.ESGDTrainer(task), n_trials=2 * N_MEMBERS)
    return study


def members(study: optuna.Study) -> list[Individual]:
    return last_population(open_results(study))


def test_a_uniform_soup_is_the_mean_with_statistics_of_its_own(
    study: optuna.Study, task: esgd.SupervisedTask
) -> None:
    soup = esgd.uniform_soup(study, task)
    assert soup.n_members == N_MEMBERS
    models = [
        esgd.load_individual(study, one.trial_number, task.build_model())
        for one in members(study)
        if one.trial_number is not None
    ]
    expected = task.build_model()
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            parameter.copy_(torch.stack([m.get_parameter(name) for m in models]).mean(0))
    task.calibrate(expected)
    torch.testing.assert_close(soup.model.state_dict(), expected.state_dict())
    assert soup.value == pytest.approx(task.fitness(expected.eval()))


def test_a_greedy_soup_is_never_worse_than_the_best(
    study: optuna.Study, task: esgd.SupervisedTask
) -> None:
    soup = esgd.greedy_soup(study, task)
    assert soup.value <= study.best_value * (1 + 1e-5)
    assert task.fitness(soup.model) == pytest.approx(soup.value)
    assert 1 <= soup.n_members <= N_MEMBERS


def test_a_soup_begins_with_an_offspring_that_is_best() -> None:
    study, task = make_study(N_MEMBERS), Averaging()
    study.optimize(esgd.ESGDTrainer(task), n_trials=N_MEMBERS)
    best = open_results(study).best()
    assert best is not None
    assert best.reference.round == 1
    first, _, greedy, _ = esgd.compare_results(study, task)
    assert first.value == pytest.approx(best.fitness)
    assert first.value < min(one.fitness_or_inf for one in members(study))
    assert greedy.value <= first.value


@pytest.mark.parametrize(
    ("outputs", "loss", "to_probability"),
    [
        ("logits", nn.functional.cross_entropy, lambda x: x.softmax(1)),
        ("log_probabilities", nn.functional.nll_loss, torch.exp),
        ("binary_logits", nn.functional.binary_cross_entropy_with_logits, torch.sigmoid),
        ("values", nn.functional.mse_loss, lambda x: x),
    ],
)
def test_an_ensemble_averages_probabilities(outputs: Any, loss: Any, to_probability: Any) -> None:
    answers = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    if outputs == "log_probabilities":
        answers = answers.log_softmax(2)

    class Constant(nn.Module):
        def __init__(self, answer: Tensor) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, inputs: Tensor) -> Tensor:
            return self.answer

    together = Ensemble([Constant(one) for one in answers], outputs)(torch.zeros(6))
    mean = torch.stack([to_probability(one) for one in answers]).mean(0)
    torch.testing.assert_close(to_probability(together), mean)
    assert outputs_of(make_task(loss=loss)) == outputs
    assert outputs_of(make_task(loss=partial(loss, reduction="mean"))) == outputs


def test_outputs_of_losses_that_are_not_known() -> None:
    assert outputs_of(make_task(loss=nn.CrossEntropyLoss(label_smoothing=0.1))) == "logits"
    assert outputs_of(make_task(loss=lambda x, y: (x - y).sum())) == "values"
    assert outputs_of(Averaging()) == "values"
    with pytest.raises(ConfigurationError, match="outputs must be one of"):
        Ensemble([], "letters")  # type: ignore[arg-type]


def test_an_ensemble_of_the_last_population(
    study: optuna.Study, task: esgd.SupervisedTask
) -> None:
    together = esgd.ensemble(study, task)
    assert together.n_members == N_MEMBERS
    assert task.fitness(together.model) == pytest.approx(together.value)
    one = esgd.ensemble(study, task, n_members=1)
    assert one.value == pytest.approx(members(study)[0].fitness, rel=1e-5)
    values = esgd.ensemble(study, task, outputs="values")
    assert values.value != pytest.approx(together.value, rel=1e-6)


@pytest.mark.parametrize("n_members", [0, -1, True, 2.0, "2"])
def test_an_ensemble_of_no_number_of_members_is_refused(
    n_members: Any, study: optuna.Study, task: esgd.SupervisedTask
) -> None:
    with pytest.raises(ConfigurationError, match=f">= 1, or None for all, got {n_members!r}"):
        esgd.ensemble(study, task, n_members=n_members)


def test_an_ensemble_of_more_than_there_are_is_of_all(
    study: optuna.Study, task: esgd.SupervisedTask
) -> None:
    n_members: Any = np.int64(2 * N_MEMBERS)
    assert esgd.ensemble(study, task, n_members=n_members).n_members == N_MEMBERS


def test_results_are_compared(study: optuna.Study, task: esgd.SupervisedTask) -> None:
    asked: list[nn.Module] = []
    held_out = esgd.HeldOut(task, examples("batch-norm", 2))

    def test(model: nn.Module) -> dict[str, float]:
        asked.append(model)
        return held_out(model)

    results = esgd.compare_results(study, task, test=test)
    assert [one.name for one in results] == ["best", "uniform soup", "greedy soup", "ensemble"]
    assert asked == [one.model for one in results]  # once of each, after all was made
    chosen = [one for one in results if one.is_chosen]
    assert [one.value for one in chosen] == [min(one.value for one in results)]
    best, _, greedy, together = results
    assert best.value == pytest.approx(study.best_value, rel=1e-5)
    assert greedy.value <= best.value
    for one in results:
        assert one.test == pytest.approx({"loss": held_out(one.model)["loss"]})
        assert one.value == pytest.approx(task.fitness(one.model))
        task.build_model() if one is together else task.build_model().load_state_dict(
            one.model.state_dict()
        )
    n_bytes = sum(t.numel() * t.element_size() for t in task.build_model().state_dict().values())
    assert [one.cost.n_bytes for one in results] == [n_bytes] * 3 + [N_MEMBERS * n_bytes]
    assert [one.cost.n_forwards for one in results] == [1, 1, 1, N_MEMBERS]
    assert best.cost.relative_seconds == 1
    assert all(one.cost.relative_seconds > 0 for one in results)


def test_a_test_returns_numbers_by_name(study: optuna.Study, task: esgd.SupervisedTask) -> None:
    with pytest.raises(TaskError, match=r"test must return numbers by name.*returned 0\.5"):
        esgd.compare_results(study, task, test=lambda _: 0.5)  # type: ignore[arg-type,return-value]


def test_maximising_studies_choose_the_largest() -> None:
    class Counting(Averaging):
        def fitness(self, model: nn.Module) -> float:
            return -super().fitness(model)

    study = make_study(direction="maximize")
    study.optimize(esgd.ESGDTrainer(Counting()), n_trials=4)
    results = esgd.compare_results(study, Counting())
    (chosen,) = [one for one in results if one.is_chosen]
    assert chosen.value == max(one.value for one in results)
    assert esgd.greedy_soup(study, Counting()).value >= results[0].value


def test_what_cannot_be_compared(task: esgd.SupervisedTask) -> None:
    study = make_study()
    esgd.ESGDTrainer(task).open(study)
    with pytest.raises(WeightsNotFoundError):
        esgd.compare_results(study, task)
    with pytest.raises(ConfigurationError, match="test must be a function"):
        esgd.compare_results(study, task, test=0.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="task must be the Task"):
        esgd.uniform_soup(study, task.build_model())  # type: ignore[arg-type]
