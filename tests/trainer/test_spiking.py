"""STDP as a species: of spiking networks only, without gradients, and no danger to the others."""

from __future__ import annotations

import logging
from typing import Any

import optuna
import pytest
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd import optim
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.modules import LIFLayer
from optuna_esgd.species import SGD, STDP
from optuna_esgd.trainer import calibration
from tests.trainer.studies import make_study, make_task


class Spiking(nn.Module):
    """Inputs are constant currents; 6 spiking neurons and 3 readouts."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = LIFLayer(6, 6)
        self.readout = LIFLayer(6, 3, spiking=False)
        nn.init.uniform_(self.hidden.synapses.weight, 0.2, 0.8)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.readout(self.hidden(inputs.abs().expand(6, *inputs.shape)))[-1]


def train(species: list[Any], n_trials: int, **settings: Any) -> optuna.Study:
    study = make_study(4, **settings)
    trainer = esgd.ESGDTrainer(make_task(model=Spiking), species=species)
    study.optimize(trainer, n_trials=n_trials)
    return study


def test_by_name_among_others_and_the_guarantee_holds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "optuna_esgd"):
        study = train(["stdp", "SGD"], 12, resample_probability=0.3, n_auditions=1)
    assert "row by row, not batched: species STDP listens to the layers" in caplog.text
    assert all(trial.value <= trial.user_attrs["value_at_birth"] for trial in study.trials)
    seen = {trial.params["species"] for trial in study.trials}
    assert seen == {"STDP", "SGD"}
    for trial in study.trials:
        is_stdp = trial.params["species"] == "STDP"
        # Two epochs of three mini-batches.
        assert trial.user_attrs["gradients"] == (0 if is_stdp else 6)
        assert trial.user_attrs["forwards"] == (6 if is_stdp else 0)
        assert {"a_plus", "a_minus"} <= trial.params.keys() or not is_stdp


def test_it_trains_spiking_synapses_and_nothing_else() -> None:
    study = train([STDP(a_plus=0.2, a_minus=0.1)], 4, back_off="none")
    for trial in study.trials:
        one = esgd.load_individual(study, trial, Spiking())
        assert one.hidden.synapses.weight.min() >= 0.2 or one.hidden.synapses.weight.max() <= 1
        assert trial.value != trial.user_attrs["value_at_birth"]


def test_runs_repeat_bit_by_bit() -> None:
    runs = [[t.value for t in train([optim.STDP, SGD()], 8).trials] for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("model", ["mlp", "frozen"])
def test_refuses_models_that_do_not_spike(model: str) -> None:
    trainer = esgd.ESGDTrainer(make_task(model), species=["STDP", "SGD"])
    with pytest.raises(ConfigurationError, match=r"'STDP' trains spiking layers, but Sequential"):
        trainer.open(make_study())


def test_refuses_synapses_that_are_frozen() -> None:
    def build() -> nn.Module:
        model = Spiking()
        model.hidden.requires_grad_(False)
        return model

    with pytest.raises(ConfigurationError, match="none that can be trained"):
        esgd.ESGDTrainer(make_task(model=build), species=["STDP"]).open(make_study())


def test_searches_its_rates_and_costs_a_forward_pass() -> None:
    species = STDP(a_plus=(1e-3, 1e-2))
    assert species.space.keys() == {"a_plus", "a_minus"}
    assert (species.gradients_per_step, species.forwards_per_step) == (0, 1)
    assert species.needs_closure
    with pytest.raises(ConfigurationError, match=r"a_plus must be a number in \[0, 1\], got 2"):
        STDP(a_plus=2.0)


def test_measuring_backends_respects_what_it_listens_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calibration, "_SHORT_RUN_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "optuna_esgd"):
        train(["stdp", "SGD"], 4)
    assert "batched: species STDP listens to the layers" in caplog.text
    assert "failed" not in caplog.text
