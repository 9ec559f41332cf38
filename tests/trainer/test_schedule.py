"""The discovered schedule as a script that needs torch alone."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.errors import ConfigurationError, WeightsNotFoundError
from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.species import SGD, Adam, RMSprop, Species
from optuna_esgd.trainer.schedule import epochs_kept
from optuna_esgd.trainer.seeding import seeded
from tests.trainer.models import N_EXAMPLES, examples
from tests.trainer.studies import make_study, make_task
from tests.trainer.test_replay import Tiny

# What a user writes at the marked place; nothing of ours.
USERS_PART = """
def build_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    model.load_state_dict(torch.load("start.pt"))
    return model

def load_examples():
    train, validation = torch.load("data.pt")
    return (
        torch.utils.data.TensorDataset(*train),
        torch.utils.data.TensorDataset(*validation),
    )
"""
FORBIDDEN = "import sys; sys.modules.update(optuna=None, optuna_esgd=None); "


class Items(TensorDataset):
    """Asked for each item, and so trained on row by row, as the script does."""


def fill_in(path: Path) -> None:
    text = path.read_text()
    head, rest = re.split(r"# >>> Your part.*\n", text)
    functions = rest[rest.index("def loss") :]
    path.write_text(head + USERS_PART + "\n\n" + functions)


def run_script(path: Path) -> subprocess.CompletedProcess[str]:
    """Run it where neither Optuna nor this package can be imported."""
    program = (
        FORBIDDEN + f"sys.argv = ['x', 'end.pt']; import runpy; runpy.run_path({path.name!r}, "
    )
    return subprocess.run(
        [sys.executable, "-c", program + "run_name='__main__')"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def save_start(study: optuna.Study, task: esgd.SupervisedTask, folder: Path) -> None:
    """The founder's weights, and the data."""
    founder = esgd.ancestry(study)[0].reference
    with seeded(derive_seed(1, 0, founder.number, "founder")):
        torch.save(task.build_model().state_dict(), folder / "start.pt")
    torch.save((examples("mlp", 0), examples("mlp", 1)), folder / "data.pt")


def check_script(
    study: optuna.Study, trainer: esgd.ESGDTrainer, task: esgd.SupervisedTask, folder: Path
) -> None:
    """Where the founder began, it ends with the weights of the best."""
    path = esgd.export_schedule(study, trainer, folder / "train.py")
    save_start(study, task, folder)
    fill_in(path)
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    ended = torch.load(folder / "end.pt")
    best = esgd.load_best(study, task.build_model()).state_dict()
    for name, tensor in best.items():
        torch.testing.assert_close(ended[name], tensor, rtol=1e-3, atol=1e-4)
    assert float(done.stdout.split()[-1]) == pytest.approx(study.best_value, rel=1e-3)


@pytest.mark.slow
def test_the_script_keeps_the_means_that_the_lineage_kept(tmp_path: Path) -> None:
    """One example again and again, so that order does not matter; rates so high that it swings."""
    inputs = examples("mlp", 0)[0][:1].repeat(24, 1)
    data = inputs, torch.ones(24, 3)
    values = {}
    for averages in (False, True):
        task = make_task(
            "mlp",
            train=Items(*data),
            validation=data,
            loss=nn.functional.mse_loss,
            batch_size=4,
        )
        study = make_study(n_offspring=0, n_epochs=3, average_iterates=averages)
        trainer = esgd.ESGDTrainer(task, species=[SGD(lr=0.5, momentum=0.98, weight_decay=0.0)])
        study.optimize(trainer, n_trials=12)
        values[averages] = study.best_value
    assert values[True] < values[False]
    path = esgd.export_schedule(study, trainer, tmp_path / "train.py")
    save_start(study, task, tmp_path)
    torch.save((data, data), tmp_path / "data.pt")
    fill_in(path)
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(study.best_value, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "guides"),
    [
        ({}, {}),
        ({"back_off": "none", "n_epochs": 3}, {"schedule": "cosine"}),
        ({"n_epochs": 3, "rate_schedule": "cosine"}, {}),
        ({"n_epochs": 3, "rate_schedule": "cosine"}, {"schedule": "cosine"}),
        ({"preset": "paper", "n_epochs": 2, "inherit_optimizer_state": True}, {}),
    ],
)
def test_the_script_trains_as_the_lineage_did(
    tmp_path: Path, settings: dict[str, Any], guides: dict[str, Any]
) -> None:
    """Full batches, so that order does not matter, and no recombination: the same weights."""
    train = Items(*examples("mlp", 0))
    task = make_task("mlp", train=train, batch_size=N_EXAMPLES, **guides)
    species = [SGD(lr=(1e-2, 1e-1)), Adam(lr=(1e-3, 1e-2))]
    study = make_study(n_offspring=0, **settings)
    trainer = esgd.ESGDTrainer(task, species=species)
    study.optimize(trainer, n_trials=16)
    check_script(study, trainer, task, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("species", "option"),
    [
        (SGD(lr=(1e-3, 1e-2), momentum=0.9, nesterov=[True, False]), "nesterov"),
        (Adam(lr=(1e-3, 1e-2), amsgrad=[True, False]), "amsgrad"),
        (RMSprop(lr=(1e-3, 1e-2), centered=[True, False]), "centered"),
        (SGD(lr=(1e-3, 1e-2), momentum=[0.0, 0.9]), "momentum"),
        (RMSprop(lr=(1e-3, 1e-2), momentum=[0.0, 0.9]), "momentum"),
    ],
    ids=["nesterov", "amsgrad", "centered", "momentum", "RMSprop's momentum"],
)
def test_state_goes_on_where_an_option_changes(
    tmp_path: Path, species: Species, option: str
) -> None:
    """What the option needs and the step before did not gather starts from zero."""
    task = make_task("mlp", train=Items(*examples("mlp", 0)), batch_size=N_EXAMPLES)
    settings = {"explore": "resample", "keep_probability": 0.0, "back_off": "none"}
    study = make_study(n_offspring=0, n_epochs=3, **settings)
    trainer = esgd.ESGDTrainer(task, species=[species])
    study.optimize(trainer, n_trials=24)
    check_script(study, trainer, task, tmp_path)
    steps = runpy.run_path(str(tmp_path / "train.py"))["STEPS"]
    assert [step.goes_on for step in steps] == [False] + [True] * 5
    options = [bool(step.settings[option]) for step in steps]
    assert (False, True) in pairwise(options)
    assert (True, False) in pairwise(options)


def test_with_recombinations(tmp_path: Path) -> None:
    """They are named, and left out; what is not filled in says so."""
    task = make_task("dropout", dropout=(0.1, 0.5), loss=lambda x, y: nn.functional.mse_loss(x, x))
    study = make_study(average_steps=True)
    trainer = esgd.ESGDTrainer(task, species=["RMSprop", "AdamW"])
    study.optimize(trainer, n_trials=16)
    path = esgd.export_schedule(study, trainer, tmp_path / "train.py", trial=15)
    module = runpy.run_path(str(path))
    line = [one for one in esgd.ancestry(study, Reference(3, 0, 3)) if one.reference.round == 0]
    kept = line  # the next may have gone on from where the training of one stood
    assert [step.optimizer.__name__ for step in module["STEPS"]] == [one.species for one in kept]
    for step, one in zip(module["STEPS"], kept, strict=True):
        assert step.settings["lr"] == one.hyperparameters["lr"]
        assert step.dropout == one.hyperparameters["dropout"]
    text = path.read_text()
    assert all(f"# {one.reference}, {one.species}" in text for one in line)
    assert ("born as the mean of" in text) == any(one.birth == "recombination" for one in line)
    with pytest.raises(NotImplementedError, match="Fill in the loss"):
        module["loss"](0, 0)
    with pytest.raises(NotImplementedError, match="build_model"):
        module["build_model"]()


@pytest.mark.parametrize(
    ("back_off", "n_back_offs", "fitness", "kept"),
    [
        ("step", 1, 0.5, 2),
        ("step", 3, 1.0, 0),
        ("best", 0, 0.5, 3),
        ("best", 1, 0.5, 3),
        ("best", 1, 1.0, 0),
        ("none", 0, 2.0, 3),
    ],
)
def test_epochs_kept(back_off: Any, n_back_offs: int, fitness: float, kept: int) -> None:
    one = Individual(
        reference=Reference(1, 0, 0),
        birth="elite",
        birth_fitness=1.0,
        fitness=fitness,
        n_epochs=3,
        n_back_offs=n_back_offs,
    )
    assert epochs_kept(one, back_off) == kept


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (lambda: esgd.ESGDTrainer(Tiny()), "loop of its own"),
        (lambda: esgd.ESGDTrainer(make_task(batches="oddball")), "chosen by OddballSampler"),
        (lambda: esgd.ESGDTrainer(make_task(schedule="momentum_annealing")), "momentum_annealing"),
    ],
)
def test_what_plain_torch_cannot_do_is_refused(trainer: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=words):
        esgd.export_schedule(make_study(), trainer(), tmp_path / "train.py")
    assert list(tmp_path.iterdir()) == []


def test_optimizers_that_torch_lacks_are_refused(tmp_path: Path) -> None:
    study = make_study()
    trainer = esgd.ESGDTrainer(make_task(), species=["PowerGradientSGD"], cohort_size=1)
    with pytest.raises(ConfigurationError, match="no folder"):
        esgd.export_schedule(study, trainer, tmp_path / "nowhere" / "train.py")
    trainer.open(study)
    with pytest.raises(WeightsNotFoundError):
        esgd.export_schedule(study, trainer, tmp_path / "train.py")
    study.optimize(trainer, n_trials=1)
    with pytest.raises(ConfigurationError, match=r"torch\.optim has no such optimizer"):
        esgd.export_schedule(study, trainer, tmp_path / "train.py")


def test_every_value_is_written_so_that_python_reads_it(tmp_path: Path) -> None:
    species = Species(torch.optim.Rprop, lr=[0.01], step_sizes=(1e-6, float("inf")))
    study, trainer = make_study(), esgd.ESGDTrainer(make_task(), species=[species], cohort_size=1)
    study.optimize(trainer, n_trials=1)
    path = esgd.export_schedule(study, trainer, tmp_path / "train.py", trial=0)
    for step in runpy.run_path(str(path))["STEPS"]:
        assert step.settings["step_sizes"] == (1e-6, float("inf"))
