"""Learning rates that fall within an SGD step, whoever trains."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.species import SGD, Adam, Species
from optuna_esgd.trainer import workshop
from optuna_esgd.trainer.rates import scaled_rates
from tests.trainer.models import examples
from tests.trainer.studies import make_study, make_task

N_EPOCHS, N_BATCHES = 4, 3
FACTORS = [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]


class Watched(torch.optim.SGD):
    """Remembers the learning rate of every step."""

    rates: list[float]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        self.rates.append(float(self.param_groups[0]["lr"]))
        return super().step(closure)


def double_task() -> esgd.SupervisedTask:
    model = make_task().model
    train, validation = (
        (inputs.double(), y) for inputs, y in (examples("mlp", s) for s in (0, 1))
    )
    return make_task(model=lambda: model().double(), train=train, validation=validation)


def train(
    species: list[Species], *, n_trials: int = 8, schedule: str = "cosine"
) -> tuple[optuna.Study, list[torch.Tensor]]:
    task = double_task()
    study = make_study(n_epochs=N_EPOCHS, rate_schedule=schedule, back_off="none", n_offspring=0)
    study.optimize(esgd.ESGDTrainer(task, species=species), n_trials=n_trials)
    models = [esgd.load_individual(study, t, task.build_model()) for t in study.trials[-4:]]
    return study, [torch.nn.utils.parameters_to_vector(one.parameters()) for one in models]


@pytest.mark.parametrize("batched", [True, False])
def test_rates_fall_in_every_sgd_step_from_the_value_the_trial_shows(
    batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not batched:
        monkeypatch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))
    Watched.rates = []
    study, _ = train([Species(Watched, lr=0.1)])
    assert "lr" not in study.trials[0].params  # fixed
    # Batched, rows without a rule step in turns; row by row one follows the other.
    rates = torch.tensor(Watched.rates).view(2, N_EPOCHS, -1) if batched else None
    if rates is None:
        rates = torch.tensor(Watched.rates).view(2, N_EPOCHS, 4 * N_BATCHES)
    expected = 0.1 * torch.tensor(FACTORS)[None, :, None].expand_as(rates)
    torch.testing.assert_close(rates, expected)


def test_batched_rules_equal_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    species = [SGD(), Adam()]
    _, batched = train(species)
    _, constant = train(species, schedule="constant")
    monkeypatch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))
    _, plain = train(species)
    for one, other in zip(batched, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    assert not any(torch.allclose(a, b) for a, b in zip(batched, constant, strict=True))


def test_an_objective_of_ones_own_has_them_too() -> None:
    Watched.rates = []
    inputs, targets = examples("mlp", 0)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 0.05, 0.2)
        torch.manual_seed(trial.number)
        model = make_task().build_model()
        optimizer = Watched(model.parameters(), lr)

        def evaluate(model: torch.nn.Module) -> float:
            return torch.nn.functional.cross_entropy(model(inputs), targets).item()

        start = len(Watched.rates)
        with esgd.sgd_step(trial, model, evaluate, optimizer=optimizer) as step:
            for _ in step.epochs():
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        assert Watched.rates[start:] == pytest.approx([lr * one for one in FACTORS])
        assert optimizer.param_groups[0]["lr"] == lr
        return step.fitness

    study = make_study(n_epochs=N_EPOCHS, rate_schedule="cosine")
    study.optimize(objective, n_trials=5)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_scheduler_of_ones_own_in_an_objective_counts(schedule: str) -> None:
    """It multiplies what the sampler's schedule multiplies too."""
    inputs, targets = examples("mlp", 0)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 0.01, 0.1)
        model = make_task().model()
        optimizer = Watched(model.parameters(), lr)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        def evaluate(model: torch.nn.Module) -> float:
            return torch.nn.functional.cross_entropy(model(inputs), targets).item()

        Watched.rates = []
        with esgd.sgd_step(trial, model, evaluate, optimizer=optimizer) as step:
            for _ in step.epochs():
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
                scheduler.step()
        factors = FACTORS if schedule == "cosine" else [1.0] * N_EPOCHS
        expected = [lr * one * 0.5**number for number, one in enumerate(factors)]
        assert Watched.rates == pytest.approx(expected)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr * 0.5**N_EPOCHS)
        return step.fitness

    study = make_study(n_epochs=N_EPOCHS, rate_schedule=schedule)
    study.optimize(objective, n_trials=5)
    assert len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) == 5


def test_rates_come_back_after_a_failure() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)

    def fail() -> None:
        with scaled_rates(optimizer, 0.1):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert optimizer.param_groups[0]["lr"] == 0.5
