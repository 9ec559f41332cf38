"""Every examination on trainers with which nothing is wrong, and on ill ones."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from optuna_esgd.doctor import examine
from optuna_esgd.doctor.agreement import examine_batched_scoring, examine_batched_training
from optuna_esgd.doctor.costs import examine_time
from optuna_esgd.doctor.determinism import examine_determinism, examine_randomness
from optuna_esgd.doctor.divergence import examine_divergence
from optuna_esgd.doctor.evaluation_mode import examine_evaluation_mode
from optuna_esgd.doctor.examine import EXAMINATIONS, Examination
from optuna_esgd.doctor.fitness_noise import examine_noise
from optuna_esgd.doctor.guarantee import examine_settings
from optuna_esgd.doctor.leakage import examine_leakage
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.doctor.repetition import examine_breeding, examine_training
from optuna_esgd.sampler import ESGDSampler
from optuna_esgd.species import Adam
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from tests.doctor import healthy, ill
from tests.doctor.patients import SETTINGS, admit


@pytest.fixture(scope="module")
def batched() -> Patient:
    return admit(healthy.trainer)


@pytest.fixture(scope="module")
def normalised() -> Patient:
    return admit(healthy.normalised())


@pytest.fixture(scope="module")
def own_loop() -> Patient:
    return admit(healthy.own_loop())


@pytest.mark.parametrize("examination", EXAMINATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", ["batched", "normalised", "own_loop"])
def test_the_healthy_are_found_so(
    kind: str, examination: Examination, request: pytest.FixtureRequest
) -> None:
    found = examination(request.getfixturevalue(kind))
    if examination is examine_time:  # tiny as they are, evaluation may well take longer
        assert found.severity != "broken"
        return
    assert found.severity == "ok", found


# Which examination finds what, as how bad, in which words.
ILLNESSES = [
    ("draws_from_its_own", examine_determinism, "broken", "again it moves by up to 0.0"),
    ("draws_a_little_from_its_own", examine_determinism, "advice", "the same but for rounding"),
    ("counts_evaluations", examine_determinism, "broken", "again it moves"),
    ("remembers_training", examine_determinism, "broken", r"fitness: after training it moves"),
    ("drops_out", examine_randomness, "advice", "depends on random numbers"),
    ("draws_from_numpy", examine_randomness, "advice", "depends on random numbers"),
    ("draws_from_python", examine_randomness, "advice", "depends on random numbers"),
    ("evaluates_in_training", examine_evaluation_mode, "broken", r"1\.running_mean"),
    ("counts_calls", examine_evaluation_mode, "advice", r"the model\.n_calls"),
    ("drops_out_by_mode", examine_evaluation_mode, "advice", r"1 \(StaysInTraining\)"),
    ("warms_up", examine_batched_training, "advice", "of its way from where plain PyTorch"),
    ("shuffles_by_its_own", examine_training, "advice", "trained twice does not end"),
    ("warms_up_alone", examine_training, "advice", "goes on from a checkpoint ends at other"),
    ("calibrates_at_random", examine_breeding, "broken", "bred a second time are not the same"),
    ("with_nan", examine_divergence, "broken", "None of 4 founders has a fitness"),
    ("too_fast", examine_divergence, "advice", "4 of 4 founders diverged .*SGD 4 of 4"),
    ("few_examples", examine_noise, "advice", "With 3 validation examples"),
    (
        "leaking",
        examine_leakage,
        "advice",
        r"4 of 40 .*\(10\.0%\).*4 of them with the same target",
    ),
    ("never_steps", examine_time, "advice", "2 epochs of 0 gradients"),
]


@pytest.mark.parametrize(("name", "examination", "severity", "words"), ILLNESSES)
def test_the_ill_are_found_so(
    name: str, examination: Examination, severity: str, words: str
) -> None:
    found = examination(admit(getattr(ill, name)()))
    assert (found.severity, bool(found.advice)) == (severity, True), found
    assert re.search(words, found.found), found


def test_a_metric_that_is_no_mean_is_not_bootstrapped() -> None:
    found = examine_noise(admit(ill.f1()))
    assert "no mean over examples" in found.found


def test_without_back_off_there_is_no_guarantee() -> None:
    assert examine_settings(admit(healthy.trainer, back_off="none")).severity == "broken"


def test_truncation_breeds_nobody() -> None:
    patient = admit(healthy.trainer, selection="truncation")
    assert examine_breeding(patient).found == "No offspring are bred."
    assert examine_time(patient).numbers["share of offspring"] == 0


def test_scoring_that_is_not_the_task_s_is_found(
    batched: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = batched.workshop.score
    monkeypatch.setattr(
        batched.workshop, "score", lambda rows: [1.01 * one for one in score(rows)]
    )
    found = examine_batched_scoring(batched)
    assert found.severity == "broken"
    assert "4 of 4 founders get another fitness" in found.found


def test_an_examination_leaves_no_trace(tmp_path: Path) -> None:
    trainer = ESGDTrainer(healthy.make_task(), device="cpu", store=f"sqlite:///{tmp_path}/w.db")
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    checkup = examine(trainer, ESGDSampler(**SETTINGS))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert checkup.is_guaranteed
    assert trainer.store == f"sqlite:///{tmp_path}/w.db"
    assert trainer.expected_workers == 1
    assert list(tmp_path.iterdir()) == []


def test_every_examination_is_listed_once() -> None:
    assert len(set(EXAMINATIONS)) == len(EXAMINATIONS)


def test_few_founders_of_a_large_population_are_trained() -> None:
    patient = admit(healthy.own_loop(), population_size=40)
    assert [one.reference.number for one in patient.individuals] == list(range(8))
    assert [len(one.individuals) for one in patient.cohorts] == [1] * 8


def test_a_species_without_a_batched_rule_is_compared_too() -> None:
    trainer = ESGDTrainer(healthy.make_task(), species=[Adam()], device="cpu")
    found = examine_batched_training(admit(trainer))
    assert found.severity == "ok"
    assert "Adam" in found.found


SEVERAL = ["SGD", "Adam", "RMSprop", "Adagrad", "NAdam", "Adamax"]


def test_with_workers_every_species_is_examined_too() -> None:
    """Each of so many workers trains one founder at a time, so a cohort has one species."""
    trainer = ESGDTrainer(healthy.make_task(), species=SEVERAL, device="cpu")
    patient = admit(trainer, n_workers=40, population_size=40)
    assert {one.species for one in patient.individuals} == set(SEVERAL)
    assert len(patient.individuals) < 8 + len(SEVERAL)
    assert {one.species for one in patient.few_to_train} == set(SEVERAL)
    assert len(patient.few_to_train) == len(SEVERAL)
    assert examine_training(patient).severity == "ok"
    found = examine_batched_training(patient)
    assert found.severity == "ok"
    assert set(found.numbers) == {f"distance {name}" for name in SEVERAL}
