"""What a trial costs beside its training, in a study that has many trials already.

All contenders work on copies of one SQLite file (made by ``create_storage``: a write-ahead log).
Training takes no time: what is measured is asking, five parameters, what our trials say of their
individuals, and telling; with an ``ESGDTrainer`` also plans, claims, weights and fitness.

    python -m tests.benchmarks.overhead
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import optuna
import sqlalchemy as sa
import torch
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.samplers import BaseSampler, RandomSampler
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.actions import Stop
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.species import SGD
from optuna_esgd.store.engines import close_databases
from optuna_esgd.store.storages import unwrap
from optuna_esgd.testing.examples import example_snapshot
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Checkpoints
from optuna_esgd.trainer.task import Epoch
from tests.benchmarks.harness import Report, Row, Timing, take_turns

NAMES = ("generation", "individual", "birth", "parents", "back_offs", "epochs", "gradients")
NAMES += ("forwards", "worker", "value_at_birth")
POPULATION = 16
_GOAL_OF_GROWTH = 1.5
# Contender -> what it is, and its goal.
_TITLES: dict[str, tuple[str, float | None]] = {
    "said": ("RandomSampler that sets as many attributes", None),
    "evolved": ("ESGDSampler without weights", 1.3),
    "by_trial": ("ESGDTrainer in study.optimize", 1.3),
    "by_cohort": ("a worker, which shows whole cohorts", 0.5),
}
TRAINED, PLAIN = "trained", "plain"
_WEIGHT_BYTES = 20_000


class NoTask(esgd.Task):
    """Says which model; it is never trained."""

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch
    ) -> None:
        raise AssertionError("InstantWorkshop trains.")

    def fitness(self, model: nn.Module) -> float:
        raise AssertionError("InstantWorkshop scores.")


class InstantWorkshop:
    """Trains in no time; all weights differ."""

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        return [
            Outcome(
                number=one.reference.number,
                fitness=1 / (1 + one.reference.generation) + one.reference.number,
                birth_fitness=1000.0 if one.birth_fitness is None else None,
                weights=example_snapshot(one.reference, _WEIGHT_BYTES),
                n_epochs=1,
            )
            for one in individuals
        ]

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        raise AssertionError("There are no offspring.")

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        raise AssertionError("Nothing fails here.")


@dataclass(frozen=True)
class Trained:
    """A study with a population, as far as it has been trained."""

    study: optuna.Study
    trainer: esgd.ESGDTrainer
    loop: WorkLoop

    @classmethod
    def open(cls, file: Path) -> Trained:
        sampler = esgd.ESGDSampler(POPULATION, seed=0, n_offspring=0, selection="truncation")
        storage = esgd.create_storage(f"sqlite:///{file}")
        study = optuna.create_study(
            storage=storage, study_name=TRAINED, sampler=sampler, load_if_exists=True
        )
        trainer = esgd.ESGDTrainer(
            NoTask(), species=[SGD(), SGD(name="SGD2")], cohort_size=POPULATION, device="cpu"
        )
        loop = trainer.open(study)
        loop.workshop = InstantWorkshop()
        return cls(study, trainer, loop)

    def close(self) -> None:
        """Close Optuna's connections; ours are closed by ``close_databases``."""
        unwrap(self.study._storage).engine.dispose()

    def train(self, n_trials: int) -> None:
        """As a worker does: train first, then show what is finished."""
        for _ in range(n_trials // POPULATION):
            while not self.trainer.show_finished(self.study):
                action = self.loop.decide()
                assert not isinstance(action, Stop)
                self.loop.act(action)


def suggest_five(trial: optuna.Trial) -> float:
    """Five parameters, and their sum of squares."""
    return sum(trial.suggest_float(f"x{i}", -5, 5) ** 2 for i in range(5))


def suggest_and_say(trial: optuna.Trial) -> float:
    """Five parameters, and as many attributes as our trials have."""
    value = suggest_five(trial)
    for name in NAMES:
        trial.set_user_attr(name, 1)
    return value


def contenders(template: Path, folder: Path, n_trials: int) -> dict[str, Callable[[], object]]:
    """What is timed, each on its own copy of the file; every call makes ``n_trials``."""

    def copy(name: str) -> Path:
        return Path(shutil.copy(template, folder / f"{name}.db"))

    def load(name: str, sampler: BaseSampler, study_name: str) -> optuna.Study:
        storage = esgd.create_storage(f"sqlite:///{copy(name)}")
        return optuna.load_study(storage=storage, study_name=study_name, sampler=sampler)

    random = load("random", RandomSampler(), PLAIN)
    said = load("said", RandomSampler(), PLAIN)
    evolved = load("evolved", esgd.ESGDSampler(POPULATION, seed=0), PLAIN)
    by_trial, by_cohort = Trained.open(copy("by_trial")), Trained.open(copy("by_cohort"))
    return {
        "random": lambda: random.optimize(suggest_five, n_trials),
        "said": lambda: said.optimize(suggest_and_say, n_trials),
        "evolved": lambda: evolved.optimize(suggest_five, n_trials),
        "by_trial": lambda: by_trial.study.optimize(by_trial.trainer, n_trials),
        "by_cohort": lambda: by_cohort.train(n_trials),
    }


def add_plain_study(file: Path, n_trials: int) -> None:
    """A study of finished trials with five parameters, made in a moment."""
    storage = esgd.create_storage(f"sqlite:///{file}")
    study = optuna.create_study(storage=storage, study_name=PLAIN)
    distribution = distribution_to_json(FloatDistribution(-5, 5))
    numbers = (
        "WITH RECURSIVE numbers(i) AS "
        "(SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :n) "
    )
    ours = "FROM trials WHERE study_id = :study"
    trials = (
        "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) "
        f"{numbers} SELECT i, :study, 'COMPLETE', '2026-01-01 00:00:00', '2026-01-01 00:00:00' "
        "FROM numbers"
    )
    params = [
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
        f"SELECT trial_id, 'x{i}', 5 - abs(random() % 10000) / 1000.0, :distribution {ours}"
        for i in range(5)
    ]
    goals = (
        "INSERT INTO trial_values (trial_id, objective, value, value_type) "
        f"SELECT trial_id, 0, abs(random() % 10000) / 100.0, 'FINITE' {ours}"
    )
    values = {"n": n_trials, "study": study._study_id, "distribution": distribution}
    with storage.engine.begin() as connection:
        for statement in (trials, *params, goals):
            connection.execute(sa.text(statement), values)
    with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")  # the file will be copied
    storage.engine.dispose()


def measure(
    *, n_before: Sequence[int] = (100, 1000, 10_000), n_trials: int = 48, n_rounds: int = 7
) -> Report:
    """Time per trial of all contenders, as ratios to Optuna's RandomSampler.

    Args:
        n_before: Trials in the study when the measurement begins.
        n_trials: Trials per contender and round; a multiple of the population.
        n_rounds: See ``take_turns``.
    """
    found = {n: _measure_after(n, n_trials, n_rounds) for n in n_before}
    rows = []
    for n, timings in found.items():
        random = timings["random"].median
        for name, (title, goal) in _TITLES.items():
            timing = timings[name]
            note = f"{timing.median / n_trials * 1e3:.2f} ms per trial"
            row = Row(f"{title}, after {n} trials", timing.median / random, "x", goal, notes=note)
            rows.append(replace(row, at_least=False))
    first, *_, last = found.values()
    # As RandomSampler's: not all were measured at the same time, and it grows as well.
    note = f"RandomSampler's own by {last['random'].median / first['random'].median:.2f}"
    for name, (title, _) in _TITLES.items():
        growth = last[name].median / last["random"].median
        growth /= first[name].median / first["random"].median
        grown = f"{title}: after {max(n_before)} trials / after {min(n_before)}"
        rows.append(Row(grown, growth, "x", _GOAL_OF_GROWTH, at_least=False, notes=note))
    raw = {
        str(n): {name: asdict(timing) for name, timing in timings.items()}
        for n, timings in found.items()
    }
    return Report(
        "overhead",
        "What a trial costs beside its training, on SQLite, against RandomSampler",
        "python -m tests.benchmarks.overhead",
        rows,
        raw,
    )


def _measure_after(n_before: int, n_trials: int, n_rounds: int) -> dict[str, Timing]:
    with tempfile.TemporaryDirectory() as name:
        template = Path(name) / "template.db"
        trained = Trained.open(template)
        trained.train(n_before - n_before % POPULATION)
        trained.close()
        add_plain_study(template, n_before)
        close_databases()
        timings = take_turns(contenders(template, Path(name), n_trials), n_rounds=n_rounds)
        close_databases()
        return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--trials", type=int, default=48, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=7)
    parsed = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    measure(n_before=parsed.before, n_trials=parsed.trials, n_rounds=parsed.rounds).save()


if __name__ == "__main__":
    main()
