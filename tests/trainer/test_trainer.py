"""The main job end to end in one process: ``study.optimize(ESGDTrainer(task))``."""

from __future__ import annotations

import math

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError, StudyError, TaskError
from optuna_esgd.species import SGD, Species
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.verification import verify
from tests.trainer.models import examples
from tests.trainer.studies import make_study, make_task


def train(study: optuna.Study, n_trials: int = 12, **arguments: object) -> optuna.Study:
    study.optimize(esgd.ESGDTrainer(make_task(), **arguments), n_trials=n_trials)
    return study


@pytest.mark.parametrize("preset", ["coevolve", "paper"])
def test_one_trial_is_one_individual_and_the_best_never_gets_worse(preset: str) -> None:
    study = train(make_study(preset=preset, n_epochs=None))
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 12
    assert [t.user_attrs["generation"] for t in study.trials] == [0] * 4 + [1] * 4 + [2] * 4
    best = [
        min(t.value for t in study.trials if t.user_attrs["generation"] == generation)
        for generation in range(3)
    ]
    assert best == sorted(best, reverse=True)
    means = list(esgd.certificate(study).values())
    assert len(means) == 3
    for r in range(len(means[0])):
        assert [m[r] for m in means] == sorted((m[r] for m in means), reverse=True)
    assert verify(open_results(study)) == []


def test_what_the_trial_shows_is_what_was_trained_with() -> None:
    study = train(make_study())
    for trial in study.trials:
        individual = open_results(study).individual_of_trial(trial.number)
        assert individual is not None
        shown = {k: v for k, v in trial.params.items() if k != "species"}
        assert trial.params["species"] == individual.species
        assert shown == dict(individual.hyperparameters)
        assert trial.value == individual.fitness


def test_maximised_metric_flips_once() -> None:
    def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == targets).float().mean()

    study = make_study(direction="maximize")
    task = make_task(metric=accuracy)
    study.optimize(esgd.ESGDTrainer(task), n_trials=12)
    assert 0.3 < study.best_value <= 1
    model = esgd.load_best(study, task.build_model())
    assert task.fitness(model) >= study.best_value


def test_maximising_a_loss_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no metric"):
        make_study(direction="maximize").optimize(esgd.ESGDTrainer(make_task()), n_trials=1)


def test_load_best_gives_the_weights_with_the_best_value() -> None:
    study, task = make_study(), make_task()
    study.optimize(esgd.ESGDTrainer(task), n_trials=12)
    model = esgd.load_best(study, task.build_model())
    best = open_results(study).best()
    assert best is not None
    assert task.fitness(model) == pytest.approx(best.fitness, rel=1e-5)
    assert best.fitness <= study.best_value


def test_same_seed_same_bits_whatever_the_cohorts_of_other_seeds() -> None:
    digests = [
        [one.weights for one in open_results(train(make_study(seed=seed))).individuals()]
        for seed in (3, 3, 4)
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_evolution_rounds(rounds: int) -> None:
    study = train(make_study(n_evolution_rounds=rounds, n_generations=3), n_trials=20)
    everyone = open_results(study).individuals()
    assert {one.reference.round for one in everyone} == set(range(rounds + 1))
    assert sum(t.state == TrialState.COMPLETE for t in study.trials) == 12
    assert study.trials[-1].state == TrialState.PRUNED
    assert verify(open_results(study)) == []


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: object) -> None:
    whole = train(make_study(), 12)
    url = f"sqlite:///{tmp_path}/esgd.db"
    for n_trials in (3, 4, 5):
        parts = train(make_study(storage=url), n_trials)
    assert [one.weights for one in open_results(parts).individuals()] == [
        one.weights for one in open_results(whole).individuals()
    ]


def test_diverging_individuals_back_off_and_live_on() -> None:
    species = [SGD(lr=(1e20, 1e25), momentum=0.9), SGD(name="calm", lr=(0.01, 0.1))]
    study = make_study(8)
    study.optimize(esgd.ESGDTrainer(make_task(), species=species), n_trials=24)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert all(math.isfinite(trial.value) for trial in study.trials)
    assert any(t.user_attrs["back_offs"] for t in study.trials if t.params["species"] == "SGD")


def test_any_optimizer_class_is_a_species_in_one_line() -> None:
    from optuna_esgd.evolution.space import FloatRange

    species = [Species(torch.optim.ASGD, lr=FloatRange(1e-3, 1e-1, "log")), "RMSprop"]
    study = train(make_study(), species=species)
    assert {t.params["species"] for t in study.trials} == {"ASGD", "RMSprop"}


class Failing(esgd.Task):
    """Raises in chosen calls of ``train_epoch``."""

    def __init__(self, fails: object) -> None:
        self.fails = fails
        self.calls = 0

    def build_model(self) -> nn.Module:
        return nn.Linear(6, 3)

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        self.calls += 1
        if self.fails(epoch, self.calls):
            raise RuntimeError("out of cheese")
        inputs, targets = examples("mlp")
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    def fitness(self, model: nn.Module) -> float:
        inputs, targets = examples("mlp", 1)
        return nn.functional.cross_entropy(model(inputs), targets).item()


def test_an_exception_fails_its_trial_only_and_the_slot_is_tried_again() -> None:
    study = make_study()
    task = Failing(lambda epoch, calls: calls == 3)
    study.optimize(esgd.ESGDTrainer(task), n_trials=9, catch=(RuntimeError,))
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 1
    assert [t.state for t in study.trials].count(TrialState.COMPLETE) == 8
    undisturbed = make_study()
    undisturbed.optimize(esgd.ESGDTrainer(Failing(lambda *_: False)), n_trials=8)
    assert [one.weights for one in open_results(study).individuals()] == [
        one.weights for one in open_results(undisturbed).individuals()
    ]


def test_after_three_failures_the_birth_weights_stand() -> None:
    study = make_study()
    task = Failing(lambda epoch, _: epoch.generation == 1 and epoch.individual == 2)
    study.optimize(esgd.ESGDTrainer(task), n_trials=4 + 3 + 4, catch=(RuntimeError,))
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 3
    third = next(
        one
        for one in open_results(study).individuals(generation=1)
        if one.reference.round == 0 and one.reference.number == 2
    )
    assert third.fitness == third.birth_fitness
    assert third.n_epochs == 0
    assert verify(open_results(study)) == []


def test_an_uncaught_exception_stops_the_study_as_usual() -> None:
    with pytest.raises(RuntimeError, match="out of cheese"):
        make_study().optimize(esgd.ESGDTrainer(Failing(lambda *_: True)), n_trials=1)


@pytest.mark.parametrize("bad", ["a text", None, True, torch.zeros(2), 1j])
def test_fitness_must_be_a_float(bad: object) -> None:
    class Odd(Failing):
        def fitness(self, model: nn.Module) -> float:
            return bad

    with pytest.raises(TaskError, match="Fitness must be a float"):
        make_study().optimize(esgd.ESGDTrainer(Odd(lambda *_: False)), n_trials=1)


def test_anchor_is_never_lost() -> None:
    task = make_task()
    good = make_study(name="good")
    good.optimize(esgd.ESGDTrainer(task), n_trials=12)
    anchor = esgd.load_best(good, task.build_model())
    value = task.fitness(anchor)
    study = make_study(name="anchored", n_epochs=1)
    hopeless = [SGD(lr=(1e20, 1e25))]
    study.optimize(esgd.ESGDTrainer(task, anchor=anchor, species=hopeless), n_trials=8)
    assert study.best_value <= value * (1 + 1e-6)
    assert task.fitness(esgd.load_best(study, task.build_model())) <= value * (1 + 1e-6)


def test_other_samplers_configurations_models_and_trials_are_refused() -> None:
    task = make_task()
    with pytest.raises(StudyError, match="TPESampler"):
        optuna.create_study().optimize(esgd.ESGDTrainer(task), n_trials=1)
    storage = optuna.storages.InMemoryStorage()
    train(make_study(storage=storage), 4)
    with pytest.raises(ConfigurationError, match="n_parents is 2 in the study and 3"):
        train(make_study(storage=storage, n_parents=3), 1)
    with pytest.raises(ConfigurationError, match=r"shape|weight"):
        make_study(storage=storage).optimize(
            esgd.ESGDTrainer(make_task(model=lambda: nn.Linear(6, 3))), n_trials=1
        )
    foreign = make_study(name="foreign")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(StudyError, match="2 finished trials"):
        train(foreign, 1)
    enqueued = make_study(name="enqueued")
    enqueued.enqueue_trial({"lr": 0.1})
    with pytest.raises(StudyError, match="enqueue_trial"):
        train(enqueued, 1)
    fixed = make_study(name="fixed")
    fixed.sampler = optuna.samplers.PartialFixedSampler({"lr": 0.1}, fixed.sampler)
    with pytest.raises(StudyError, match="PartialFixedSampler"):
        train(fixed, 1)


def test_bad_tasks_are_refused_before_training() -> None:
    with pytest.raises(ConfigurationError, match="must be a function"):
        make_task(model=nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="24 inputs but 23 targets"):
        make_task(train=(examples("mlp")[0], examples("mlp")[1][:-1]))
    with pytest.raises(ConfigurationError, match="precision"):
        make_task(precision="float8")
    with pytest.raises(ConfigurationError, match="Batch sizes"):
        make_task(batch_size=-1)
    with pytest.raises(ConfigurationError, match="no examples"):
        make_task(train=(torch.zeros(0, 6), torch.zeros(0)))
    with pytest.raises(ConfigurationError, match="task must be a Task"):
        esgd.ESGDTrainer(lambda trial: 0.0)


def test_threads_of_one_process_share_a_population() -> None:
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task(), cohort_size=1), n_trials=12, n_jobs=3)
    one_by_one = make_study()
    one_by_one.optimize(esgd.ESGDTrainer(make_task(), cohort_size=1), n_trials=12)
    assert [one.weights for one in open_results(study).individuals()] == [
        one.weights for one in open_results(one_by_one).individuals()
    ]


def test_no_two_individuals_share_memory() -> None:
    study, task = make_study(), make_task()
    study.optimize(esgd.ESGDTrainer(task), n_trials=8)
    models = [
        esgd.load_individual(study, trial, task.build_model()) for trial in study.trials[-4:]
    ]
    pointers = [p.data_ptr() for model in models for p in model.parameters()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("explore", ["perturb", "resample", "tpe"])
def test_three_ways_to_explore(explore: str) -> None:
    way = optuna.samplers.TPESampler(n_startup_trials=4) if explore == "tpe" else explore
    runs = [train(make_study(explore=way)) for _ in range(2)]
    assert runs[0].trials[-1].params == runs[1].trials[-1].params
    assert {t.state for t in runs[0].trials} == {TrialState.COMPLETE}
