"""The trainer where things go wrong, change, or happen at the same time."""

from __future__ import annotations

import threading
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import FloatRange, IntRange
from optuna_esgd.species import SGD, Adam, Species
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.verification import verify
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def test_the_best_can_be_loaded_however_many_tie() -> None:
    study = make_study(8, direction="maximize")
    task = make_task(metric=accuracy)
    trainer = esgd.ESGDTrainer(task, cohort_size=2)
    for _ in range(6):
        study.optimize(trainer, n_trials=8)
        model = esgd.load_best(study, task.build_model())
        assert task.fitness(model) >= study.best_value


class Raising(esgd.Task):
    """Learns nothing; raises in training where told to."""

    def __init__(self, *, in_generation: int) -> None:
        self.in_generation = in_generation

    def build_model(self) -> nn.Module:
        return MODELS["mlp"][0]()

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> None:
        if epoch.generation == self.in_generation:
            raise RuntimeError("out of cheese")

    def fitness(self, model: nn.Module) -> float:
        inputs, targets = examples("mlp", 1)
        return nn.functional.cross_entropy(model(inputs), targets).item()


def test_an_anchor_is_not_lost_even_if_nothing_can_be_trained() -> None:
    task = Raising(in_generation=0)
    anchor = task.build_model()
    value = task.fitness(anchor.eval())
    study = make_study()
    trainer = esgd.ESGDTrainer(task, anchor=anchor, cohort_size=4)
    study.optimize(trainer, n_trials=3 + 8, catch=(RuntimeError,))
    assert study.best_value <= value * (1 + 1e-6)
    model = esgd.load_best(study, task.build_model())
    assert task.fitness(model) <= value * (1 + 1e-6)


def test_offspring_that_cannot_be_scored_count_as_diverged() -> None:
    class Uncalibrated(Raising):
        def calibrate(self, model: nn.Module) -> None:
            raise RuntimeError("no batches")

        def build_model(self) -> nn.Module:
            return MODELS["batch-norm"][0]()

    study = make_study()
    trainer = esgd.ESGDTrainer(Uncalibrated(in_generation=-1), cohort_size=4)
    study.optimize(trainer, n_trials=80, catch=(RuntimeError,), callbacks=[stop_at_12])
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == 12
    assert {t.user_attrs["birth"] for t in complete} <= {"founder", "elite", "survivor"}
    assert verify(open_results(study)) == []


def stop_at_12(study: optuna.Study, _trial: Any) -> None:
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) >= 12:
        study.stop()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([SGD(), Adam()], [Adam()], "species 'SGD'"),
        ([SGD()], [SGD(), Adam()], "species 'Adam'"),
        ([SGD(lr=(0.01, 1.0))], [SGD(lr=(0.01, 0.1))], r"0\.1.*"),
        ([SGD(nesterov=True)], [SGD(nesterov=False)], "nesterov"),
    ],
)
def test_other_species_or_ranges_are_refused(
    before: list[Species], after: list[Species], message: str
) -> None:
    storage = optuna.storages.InMemoryStorage()
    study = make_study(storage=storage)
    study.optimize(esgd.ESGDTrainer(make_task(), species=before), n_trials=4)
    again = make_study(storage=storage)
    with pytest.raises(ConfigurationError, match=message):
        again.optimize(esgd.ESGDTrainer(make_task(), species=after), n_trials=1)
    again.optimize(esgd.ESGDTrainer(make_task(), species=before), n_trials=4)


def test_more_generations_can_be_asked_for() -> None:
    storage = optuna.storages.InMemoryStorage()
    trainer = esgd.ESGDTrainer(make_task())
    for n_generations in (1, 3):
        study = make_study(storage=storage, n_generations=n_generations)
        study.optimize(trainer, n_trials=20)
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        assert len(complete) == 4 * n_generations


def test_cohort_size_is_remembered() -> None:
    storage = optuna.storages.InMemoryStorage()
    make_study(storage=storage).optimize(esgd.ESGDTrainer(make_task(), cohort_size=2), n_trials=4)
    again = make_study(storage=storage)
    again.optimize(esgd.ESGDTrainer(make_task()), n_trials=4)
    assert len(open_results(again).slots(generation=1)[:2]) == 2
    with pytest.raises(ConfigurationError, match="cohort_size"):
        again.optimize(esgd.ESGDTrainer(make_task(), cohort_size=4), n_trials=1)
    with pytest.raises(ConfigurationError, match="cohort_size must be"):
        make_study(name="zero").optimize(esgd.ESGDTrainer(make_task(), cohort_size=0), n_trials=1)


def test_log_ranges_on_a_grid_can_be_shown() -> None:
    class Patient(SGD):
        pass

    species = Species(
        torch.optim.ASGD,
        lr=FloatRange(0.01, 0.1, "log", step=0.01),
        t0=IntRange(10, 1000, "log", step=10),
    )
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task(), species=[species]), n_trials=8)
    assert all(t.params["t0"] % 10 == 0 for t in study.trials)


def test_transformed_data_is_asked_for_each_item() -> None:
    calls: list[int] = []

    def collate(items: list[Any]) -> Any:
        calls.append(len(items))
        return default_collate(items)

    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            inputs, targets = super().__getitem__(index)
            return inputs * 2, targets

    tensors = TensorDataset(*examples("mlp"))
    for train in (DataLoader(tensors, 8, collate_fn=collate), Doubled(*examples("mlp"))):
        task = make_task(train=train, batch_size=None)
        assert task.train.tensors is None
        study = make_study()
        study.optimize(esgd.ESGDTrainer(task), n_trials=4)
        assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert calls
    assert make_task(train=DataLoader(tensors, 6), batch_size=None).train.batch_size == 6
    assert make_task(train=tensors).train.tensors is not None


def test_studies_in_threads_give_the_same_founders() -> None:
    digests: list[list[str | None]] = []

    def run() -> None:
        study = make_study()
        study.optimize(esgd.ESGDTrainer(make_task("dropout")), n_trials=8)
        digests.append([one.weights for one in open_results(study).individuals()])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 3
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("name", ["dropout", "branching", "batch-norm"])
def test_the_caller_s_random_state_is_neither_used_nor_changed(name: str) -> None:
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        study = make_study()
        study.optimize(esgd.ESGDTrainer(make_task(name)), n_trials=8)
        assert torch.equal(torch.random.get_rng_state(), before)
        digests.append([one.weights for one in open_results(study).individuals()])
    assert digests[0] == digests[1]


class Descending(esgd.Task):
    """One step on all examples, in a loop of its own."""

    def build_model(self) -> nn.Module:
        return MODELS["mlp"][0]()

    def train_epoch(self, model: nn.Module, optimizer: Any, epoch: esgd.Epoch) -> None:
        inputs, targets = examples("mlp", 0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    def fitness(self, model: nn.Module) -> float:
        inputs, targets = examples("mlp", 1)
        return nn.functional.cross_entropy(model(inputs), targets).item()


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", ["own loop", "rows", "batched", "native"])
def test_training_has_gradients_where_the_caller_has_none(backend: Any, off: Any) -> None:
    trainer = (
        esgd.ESGDTrainer(Descending())
        if backend == "own loop"
        else esgd.ESGDTrainer(make_task(), backend=backend)
    )

    def train() -> tuple[list[float | None], str]:
        study = make_study()
        study.optimize(trainer, n_trials=8)
        return [trial.value for trial in study.trials], esgd.replay(study, trainer).digest

    expected = train()
    with off():
        assert train() == expected
        assert torch.is_inference_mode_enabled() == (off is torch.inference_mode)
        assert not torch.is_grad_enabled()


def test_pinning_what_is_gone_is_refused() -> None:
    from optuna_esgd.errors import WeightsNotFoundError

    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=16)
    open_results(study).collect_garbage()
    everyone = open_results(study).individuals(generation=0)
    gone = next(one for one in everyone if one.trial_number is not None and not one.is_stored)
    with pytest.raises(WeightsNotFoundError, match="collected already"):
        esgd.pin(study, gone.trial_number)


@pytest.mark.parametrize("changed", ["train", "validation"])
def test_other_data_is_refused(changed: str) -> None:
    storage = optuna.storages.InMemoryStorage()
    make_study(storage=storage).optimize(esgd.ESGDTrainer(make_task()), n_trials=4)
    inputs, targets = examples("mlp")
    other = make_task(**{changed: (inputs, targets.flip(0))})
    with pytest.raises(ConfigurationError, match=r"(training|validation) data is '24 examples"):
        make_study(storage=storage).optimize(esgd.ESGDTrainer(other), n_trials=1)
    other = make_task(batch_size=6)
    with pytest.raises(ConfigurationError, match="batches of 6"):
        make_study(storage=storage).optimize(esgd.ESGDTrainer(other), n_trials=1)


@pytest.mark.parametrize("n_trials", [0, 1])
def test_a_study_that_nobody_has_trained_in_may_be_deleted(n_trials: int) -> None:
    """Such as one that a first run has made whose data turned out to be wrong."""
    study = make_study()
    esgd.ESGDTrainer(make_task()).open(study)
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=n_trials)
    other = esgd.ESGDTrainer(make_task(batch_size=6))
    with pytest.raises(ConfigurationError) as caught:
        other.open(study)
    assert ("nothing would be lost" in str(caught.value)) == (n_trials == 0)


def test_a_loader_s_last_batch_can_be_dropped() -> None:
    loader = DataLoader(TensorDataset(*examples("batch-norm")), 23, drop_last=True)
    task = make_task("batch-norm", train=loader, batch_size=None)
    assert task.train.n_batches == 1
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    assert all(t.user_attrs["gradients"] == 2 for t in study.trials)


def test_wrong_arguments_are_refused_at_once() -> None:
    task = make_task()
    for device in ("cuda:7", "gpu", 12345):
        with pytest.raises(ConfigurationError, match="device must be one this machine has"):
            esgd.ESGDTrainer(task, device=device)
    with pytest.raises(ConfigurationError, match="anchor must be a model"):
        esgd.ESGDTrainer(task, anchor=task.build_model)
    with pytest.raises(ConfigurationError, match="loss must be a function"):
        make_task(loss="cross_entropy")
    study = make_study()
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    with pytest.raises(ConfigurationError, match=r"model must be a torch\.nn\.Module"):
        esgd.load_best(study, task.build_model)
    with pytest.raises(ConfigurationError, match=r"study must be an optuna\.Study"):
        esgd.load_best("s", task.build_model())
    with pytest.raises(ConfigurationError, match="task must be the Task"):
        esgd.greedy_soup(study, task.build_model())
    several = optuna.create_study(directions=["minimize"] * 2, sampler=study.sampler)
    with pytest.raises(ConfigurationError, match="2 directions"):
        several.optimize(esgd.ESGDTrainer(task), n_trials=1)


@pytest.mark.parametrize(
    ("anchor", "words"),
    [
        ({}, "got dict of nothing"),
        (nn.Sequential(), "got Sequential of nothing"),
        ({"model": {}, "epoch": 1}, "got dict of dict and int"),
    ],
    ids=["nothing", "no layers", "a checkpoint"],
)
def test_an_anchor_holds_tensors(anchor: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"anchor must be a model or .*{words}"):
        esgd.ESGDTrainer(make_task(), anchor=anchor)


def test_a_population_that_diverges_as_a_whole_is_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lost(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * float("nan")

    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task(loss=lost)), n_trials=8)
    assert "Everybody in generation 0 has diverged" in caplog.text


def test_an_individual_whose_trial_was_interrupted_is_shown_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = make_study()
    trainer = esgd.ESGDTrainer(make_task())
    study.optimize(trainer, n_trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.optimize(trainer, n_trials=1)
    study.optimize(trainer, n_trials=7)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    shown = [(t.user_attrs["generation"], t.user_attrs["individual"]) for t in complete]
    assert sorted(shown) == [(generation, n) for generation in range(2) for n in range(4)]


def interrupt(*_arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("first", "second"), [(None, 0), (0, None), (0, 1)], ids=["none", "none here", "another"]
)
def test_a_study_remembers_its_anchor(first: int | None, second: int | None) -> None:
    torch.manual_seed(0)
    models = [make_task().build_model() for _ in range(2)]
    anchors = [None if one is None else models[one] for one in (first, second)]
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task(), anchor=anchors[0]), n_trials=1)
    study.optimize(esgd.ESGDTrainer(make_task(), anchor=anchors[0]), n_trials=1)
    with pytest.raises(ConfigurationError, match="anchor is"):
        study.optimize(esgd.ESGDTrainer(make_task(), anchor=anchors[1]), n_trials=1)


@pytest.mark.parametrize("changed", ["metric", "loss"])
def test_a_study_remembers_loss_and_metric_by_name(changed: str) -> None:
    study = make_study()
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=1)
    task = make_task(**{changed: nn.functional.multi_margin_loss})
    with pytest.raises(ConfigurationError, match=f"{changed} is .*'multi_margin_loss' here"):
        study.optimize(esgd.ESGDTrainer(task), n_trials=1)
