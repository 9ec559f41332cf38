"""A study's population as columns."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.errors import StudyError
from optuna_esgd.store.opening import open_results
from optuna_esgd.visualization.figures import draw_all
from optuna_esgd.visualization.history import BIRTHS, History, read_history
from tests.trainer.studies import make_study, make_task
from tests.visualization.histories import NOTHING, history, one
from tests.visualization.studies import toy_history, toy_study


def check_against(individuals: tuple[Individual, ...], read: History) -> None:
    """Every row is its individual."""
    finished = [i for i in individuals if i.reference.round == 0 and i.fitness is not None]
    assert read.n_individuals == len(finished)
    rows = {i.reference: row for row, i in enumerate(finished)}
    for row, individual in enumerate(finished):
        reference = individual.reference
        assert (read.generation[row], read.number[row]) == (reference.generation, reference.number)
        assert read.fitness[row] == individual.fitness
        assert read.species[read.species_index[row]] == individual.species
        assert BIRTHS[read.birth[row]] == individual.birth
        assert read.hyperparameters[row] == individual.hyperparameters
        assert read.n_back_offs[row] == individual.n_back_offs
        assert read.n_epochs[row] == individual.n_epochs
        trial = individual.trial_number
        assert read.trial[row] == (-1 if trial is None else trial)
        first = individual.first_parent
        assert read.first_parent[row] == (-1 if first is None else rows[first])
        of_child = read.child == row
        parents = {rows[parent] for parent in individual.parents}
        assert set(read.parent[of_child].tolist()) == parents
        assert sum(read.weight[of_child]) == pytest.approx(1.0 if parents else 0.0)


@pytest.mark.parametrize("n_finished", [None, 9, 2])
def test_rows_are_individuals(n_finished: int | None) -> None:
    study = toy_study(6, 4, n_finished=n_finished, n_trials=7)
    check_against(open_results(study).individuals(), read_history(study))


def test_a_database_gives_what_memory_gives(tmp_path: Path) -> None:
    in_file = toy_history(6, 3, storage=f"sqlite:///{tmp_path / 'esgd.db'}")
    in_memory = toy_history(6, 3)
    for name in ("generation", "number", "trial", "species_index", "birth", "first_parent"):
        assert np.array_equal(getattr(in_file, name), getattr(in_memory, name)), name
    for name in ("fitness", "birth_fitness", "weight", "child", "parent"):
        equal = np.array_equal(getattr(in_file, name), getattr(in_memory, name), equal_nan=True)
        assert equal, name
    assert in_file.hyperparameters == in_memory.hyperparameters
    assert [s._replace(claimed_at=0, finished_at=0) for s in in_file.spans] == [
        s._replace(claimed_at=0, finished_at=0) for s in in_memory.spans
    ]


def test_trained_networks() -> None:
    study = make_study(4)
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=10)
    read = read_history(study)
    check_against(open_results(study).individuals(), read)
    assert read.n_generations == 3
    assert sorted(read.trial[read.trial >= 0]) == list(range(10))


def test_sgd_steps_inside_an_objective() -> None:
    study = make_study(3)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr)
        with esgd.sgd_step(
            trial, model, lambda m: float(m.weight.square().sum()), optimizer=optimizer
        ) as step:
            for _ in step.epochs(1):
                optimizer.zero_grad()
                model.weight.square().sum().backward()
                optimizer.step()
        return step.fitness

    study.optimize(objective, n_trials=5)
    read = read_history(study)
    assert read.species == ("SGD",)
    assert read.n_individuals == 5
    assert all("lr" in one for one in read.hyperparameters)
    assert len(draw_all(read)) == 9


def test_a_study_without_population_is_refused() -> None:
    with pytest.raises(StudyError, match="no population"):
        read_history(optuna.create_study())


def test_nobody_has_finished_yet() -> None:
    read = toy_history(4, 2, n_finished=0)
    assert (read.n_individuals, read.n_generations, read.best) == (0, 0, None)
    assert read.last_complete == 0


def test_reading_while_others_write(tmp_path: Path) -> None:
    """Whatever is read in between is true in itself, and can be drawn."""
    url = f"sqlite:///{tmp_path / 'esgd.db'}"
    writer = threading.Thread(target=toy_study, args=(6, 6), kwargs={"storage": url})
    study = toy_study(6, 6, n_finished=1, storage=url)
    writer.start()
    seen = set()
    while True:
        is_over = not writer.is_alive()
        read = read_history(study)
        seen.add(read.n_individuals)
        draw_all(read)
        assert np.all(read.parent < read.child)
        if is_over:
            break
    writer.join()
    assert max(seen) == 36


def test_offspring_that_never_trained_are_seen_through() -> None:
    """With two rounds, a survivor may descend from an offspring of the round before."""
    bred = Individual(
        reference=Reference(0, 1, 0),
        birth="recombination",
        parents=(Reference(0, 0, 1), Reference(0, 0, 2)),
        fitness=0.1,
    )
    child = Individual(
        reference=Reference(1, 0, 0),
        birth="recombination",
        parents=(Reference(0, 1, 0), Reference(0, 0, 0)),
        species="SGD",
        fitness=0.05,
    )
    read = history(one(0, 0, 1.0), one(0, 1, 2.0), one(0, 2, 3.0), bred, child)
    assert read.first_parent.tolist() == [-1, -1, -1, 1]
    shares = dict(zip(read.parent.tolist(), read.weight.tolist(), strict=True))
    assert shares == {0: 0.5, 1: 0.25, 2: 0.25}


def test_two_rounds_of_offspring() -> None:
    read = toy_history(6, 5, n_evolution_rounds=2)
    assert read.n_generations == 5
    weights = np.zeros(read.n_individuals)
    np.add.at(weights, read.child, read.weight)
    assert weights[read.generation > 0] == pytest.approx(1.0)


def test_stored_offspring_may_be_the_best() -> None:
    better = Individual(
        reference=Reference(0, 1, 0), birth="recombination", fitness=0.1, is_stored=True
    )
    read = history(one(0, 0, 1.0), better)
    assert read.best == 0
    assert read.best_fitness == 0.1


def test_ranks_ties_and_diverged() -> None:
    read = history(
        one(0, 0, math.inf), one(0, 1, 2.0), one(0, 2, 2.0), one(1, 0, 1.0, 1), one(1, 1, 0.5, 1)
    )
    assert read.rank.tolist() == [2, 0, 1, 1, 0]
    assert read.is_elite.tolist() == [False, True, False, False, True]
    assert read.best == 4


@pytest.mark.parametrize(
    ("maximize", "expected"), [(False, [1.0, math.inf]), (True, [-1.0, -math.inf])]
)
def test_values_are_shown_in_the_study_s_direction(maximize: bool, expected: list[float]) -> None:
    read = history(one(0, 0, 1.0), one(0, 1, math.inf), maximize=maximize)
    assert read.shown(read.fitness).tolist() == expected


@pytest.mark.parametrize(("back_off", "expected"), [("step", [2, 0]), ("best", [1, 0])])
def test_chances_to_back_off(back_off: str, expected: list[int]) -> None:
    read = history(one(0, 0, 1.0), one(0, 1, 1.0, n_epochs=0), back_off=back_off)
    assert read.n_chances.tolist() == expected


def test_half_a_generation_is_not_the_last_complete_one() -> None:
    whole = [one(0, 0, 1.0), one(0, 1, 2.0)]
    assert history(*whole, one(1, 0, 1.0, 0), one(1, 1, None, 0)).last_complete == 0
    assert history(*whole, one(1, 0, 1.0, 0), one(1, 1, 1.0, 0)).last_complete == 1
    assert NOTHING.starts.tolist() == [0]


def test_neither_reading_nor_drawing_needs_torch(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'esgd.db'}"
    toy_study(4, 2, storage=url)
    program = f"""
import optuna, sys
from optuna_esgd.visualization import draw_all, key_numbers, read_history
history = read_history(optuna.load_study(study_name="toy", storage={url!r}))
print(len(draw_all(history)), key_numbers(history).n_individuals, "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["9", "8", "False"]
