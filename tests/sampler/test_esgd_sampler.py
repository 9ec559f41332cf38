from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    GridSampler,
    PartialFixedSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import Trial, TrialState

from optuna_esgd import ESGDSampler
from optuna_esgd.engine.configuration import Settings
from optuna_esgd.engine.explore import ExploreSpaces
from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.sampler import unwrap
from optuna_esgd.sampler.hyperparameter_evolution import Offspring
from optuna_esgd.sampler.proposals import ExploreSampler
from tests.sampler.studies import conditional, make_study, run, sphere, training, values_of


def test_importing_the_sampler_loads_neither_torch_nor_sqlalchemy() -> None:
    script = (
        "import sys; from optuna_esgd.sampler import ESGDSampler; ESGDSampler(); "
        "assert not {'torch', 'sqlalchemy', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class TestSettings:
    def test_defaults_are_left_to_the_preset(self) -> None:
        assert ESGDSampler().settings == Settings()
        assert ESGDSampler().explore_sampler is None

    def test_every_setting_arrives(self) -> None:
        given: dict[str, Any] = {
            "preset": "paper",
            "seed": 3,
            "n_offspring": 5,
            "n_parents": 3,
            "n_elites": 2,
            "mutation_scale": 0.5,
            "roulette": "inverse",
            "selection": "elitist",
            "n_epochs": 7,
            "n_evolution_rounds": 2,
            "n_generations": 9,
            "back_off": "step",
            "explore": "perturb",
            "resample_probability": 0.2,
            "keep_probability": 0.3,
            "n_auditions": 1,
            "inherit_optimizer_state": True,
            "learning_rate_decay": 0.8,
            "rate_schedule": "cosine",
            "average_iterates": False,
            "average_steps": False,
            "max_tries": 4,
            "lease_seconds": 30.0,
        }
        assert ESGDSampler(8, **given).settings == Settings(population_size=8, **given)

    @pytest.mark.parametrize(
        "sampler", [GridSampler({"lr": [0.1]}), BruteForceSampler()], ids=["grid", "brute force"]
    )
    def test_samplers_that_list_values_do_not_explore(self, sampler: BaseSampler) -> None:
        name = type(sampler).__name__
        with pytest.raises(ConfigurationError, match=f"explore cannot be a {name}"):
            ESGDSampler(explore=sampler)

    def test_an_optuna_sampler_explores(self) -> None:
        tpe = TPESampler()
        sampler = ESGDSampler(explore=tpe)
        assert sampler.settings.explore == "sampler"
        assert sampler.explore_sampler is tpe
        configuration = sampler.settings.configure(seed=0, cohort_size=None, maximize=False)
        explore = sampler.explore_with(configuration, {"sgd": {}}, list)
        assert isinstance(explore, ExploreSampler)
        assert explore.sampler is tpe
        assert isinstance(
            ESGDSampler().explore_with(configuration, {"sgd": {}}, list), ExploreSpaces
        )

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("population_size", "16", "population_size must be a whole number, got '16'"),
            ("population_size", 16.0, r"population_size must be a whole number, got 16\.0"),
            ("population_size", True, "population_size must be a whole number, got True"),
            ("population_size", None, "population_size must be a whole number, got None"),
            ("population_size", 1, "population_size must be at least 2"),
            ("n_elites", 17, "n_elites must be between 1 and population_size = 16, got 17"),
            ("n_parents", 0, "n_parents must be between 1"),
            ("n_parents", None, "n_parents must be a whole number"),
            ("n_offspring", -1, "n_offspring must be 0 or more, got -1"),
            ("mutation_scale", math.nan, "mutation_scale must be finite"),
            ("mutation_scale", "0.1", "mutation_scale must be a number, got '0.1'"),
            ("resample_probability", 1.5, r"resample_probability must be in \[0, 1\]"),
            ("roulette", "wheel", "roulette must be 'rank' or 'inverse', got 'wheel'"),
            ("selection", "best", "selection must be 'elitist' or 'truncation', got 'best'"),
            ("back_off", 3, "back_off must be 'step', 'best' or 'none', got 3"),
            ("inherit_optimizer_state", "yes", "must be True or False, got 'yes'"),
            ("seed", 1.5, r"seed must be a whole number, got 1\.5"),
            ("preset", "pbt", "preset must be one of"),
            ("preset", ["paper"], "preset must be 'coevolve' or 'paper', got"),
            ("explore", "sampler", "explore must be 'perturb', 'resample' or an Optuna sampler"),
            ("explore", TPESampler, "explore must be .* got <class"),
            ("lease_seconds", 0, "lease_seconds must be finite and more than 0, got 0"),
        ],
    )
    def test_bad_settings_are_refused_at_once(self, name: str, value: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            ESGDSampler(**{name: value})

    def test_numbers_of_other_libraries_are_numbers(self) -> None:
        sampler = ESGDSampler(np.int64(4), seed=np.int64(3), mutation_scale=np.float32(0.5))  # type: ignore[arg-type]
        assert len(run(sampler, sphere, 10).trials) == 10


class TestReproducibility:
    @pytest.mark.parametrize("objective", [sphere, training, conditional])
    def test_the_same_seed_gives_the_same_trials(self, objective: Any) -> None:
        runs = [run(ESGDSampler(8, seed=5), objective, 40) for _ in range(2)]
        assert values_of(runs[0]) == values_of(runs[1])

    def test_another_seed_gives_other_trials(self) -> None:
        runs = [run(ESGDSampler(8, seed=seed), sphere, 3) for seed in (1, 2, None)]
        assert len({str(values_of(study)) for study in runs}) == 3

    def test_without_a_seed_a_copy_keeps_the_one_drawn(self) -> None:
        sampler = ESGDSampler(4)
        copies = [sampler, pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)]
        runs = [run(one, sphere, 12) for one in copies]
        assert values_of(runs[0]) == values_of(runs[1]) == values_of(runs[2])

    def test_reseeding_and_other_draws_change_nothing(self) -> None:
        def disturbed(trial: Trial) -> float:
            trial.study.sampler.reseed_rng()
            np.random.seed(0)
            return sphere(trial)

        plain = run(ESGDSampler(4, seed=0), sphere, 20)
        assert values_of(plain) == values_of(run(ESGDSampler(4, seed=0), disturbed, 20))

    def test_going_on_with_a_new_sampler_is_like_never_stopping(self) -> None:
        study = make_study(ESGDSampler(4, seed=0))
        for _ in range(4):
            study.optimize(sphere, n_trials=6)
            study.sampler = ESGDSampler(4, seed=0)
        assert values_of(study) == values_of(run(ESGDSampler(4, seed=0), sphere, 24))

    def test_the_direction_only_turns_the_sign(self) -> None:
        maximised = make_study(ESGDSampler(4, seed=0), direction="maximize")
        maximised.optimize(lambda trial: -sphere(trial), n_trials=30)
        assert values_of(maximised) == values_of(run(ESGDSampler(4, seed=0), sphere, 30))

    def test_the_order_of_suggestions_does_not_matter(self) -> None:
        def backwards(trial: Trial) -> float:
            for index in reversed(range(5)):
                trial.suggest_float(f"x{index}", -5, 5)
            return sphere(trial)

        assert values_of(run(ESGDSampler(4, seed=0), backwards, 20)) == values_of(
            run(ESGDSampler(4, seed=0), sphere, 20)
        )

    def test_a_database_changes_nothing(self) -> None:
        study = make_study(ESGDSampler(4, seed=0), storage="sqlite:///:memory:")
        study.optimize(training, n_trials=12)
        assert values_of(study) == values_of(run(ESGDSampler(4, seed=0), training, 12))


class TestOptunaFeatures:
    def test_threads(self) -> None:
        study = run(ESGDSampler(4, seed=0), sphere, 60, n_jobs=4)
        assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
        assert len({str(values) for values in values_of(study)}) == 60

    def test_many_trials_at_a_time_differ(self) -> None:
        study = run(ESGDSampler(4, seed=0), sphere, 12)
        trials = [study.ask() for _ in range(20)]
        values = [sphere(trial) for trial in trials]
        assert len(set(values)) == 20
        for trial, value in zip(trials, values, strict=True):
            study.tell(trial, value)

    def test_what_a_trial_is_stays_while_others_finish(self) -> None:
        study = run(ESGDSampler(4, seed=0), sphere, 12)
        together, interrupted = study.ask(), study.ask()
        expected = copy.deepcopy(study)
        sphere(together)
        interrupted.suggest_float("x0", -5, 5)
        study.tell(together, 0.0)
        sphere(interrupted)
        twin = Trial(expected, interrupted._trial_id)
        sphere(twin)
        assert twin.params == interrupted.params

    def test_enqueued_values_are_used_and_inherited(self) -> None:
        study = make_study(ESGDSampler(4, seed=0))
        optimum = {"x0": 3.7, "x1": -2.1, "x2": 1.3, "x3": 3.7, "x4": -2.1}
        study.enqueue_trial(optimum)
        study.enqueue_trial({"x0": 4.0})
        study.optimize(sphere, n_trials=30)
        assert study.trials[0].params == optimum
        assert study.trials[1].params["x0"] == 4.0
        better = run(ESGDSampler(4, seed=0), sphere, 30)
        assert np.median([t.value for t in study.trials[10:]]) < np.median(
            [t.value for t in better.trials[10:]]
        )

    def test_inside_a_partial_fixed_sampler(self) -> None:
        inner = ESGDSampler(4, seed=0)
        study = run(PartialFixedSampler({"x1": 2.5}, inner), sphere, 20)
        assert {values["x1"] for values in values_of(study)} == {2.5}
        assert len({values["x0"] for values in values_of(study)}) == 20

    def test_failed_and_pruned_trials_and_infinite_values(self) -> None:
        def moody(trial: Trial) -> float:
            value = sphere(trial)
            match trial.number % 6:
                case 1:
                    return math.nan
                case 2:
                    trial.report(value, 0)
                    raise optuna.TrialPruned
                case 3:
                    raise RuntimeError("no")
                case 4:
                    return math.inf
            return value

        study = run(ESGDSampler(4, seed=0), moody, 240, catch=(RuntimeError,))
        assert study.best_value < 2

    def test_ranges_may_move(self) -> None:
        def moving(trial: Trial) -> float:
            low = trial.number
            return trial.suggest_float("x", low, low + 10) + trial.suggest_int("n", -low, 3 + low)

        study = run(ESGDSampler(4, seed=0), moving, 40)
        assert all(t.number <= t.params["x"] <= t.number + 10 for t in study.trials)

    def test_values_are_plain_python(self) -> None:
        study = run(ESGDSampler(4, seed=0), training, 30)
        kinds = {
            name: {type(values[name]) for values in values_of(study)}
            for name in ("lr", "momentum", "n_layers", "n_units")
        }
        assert kinds == {"lr": {float}, "momentum": {float}, "n_layers": {int}, "n_units": {int}}

    def test_choices_of_mixed_types_keep_their_identity(self) -> None:
        choices = (None, True, 1, 0.5, "1", False, 0)

        def objective(trial: Trial) -> float:
            value = trial.suggest_categorical("value", choices)
            assert any(value is choice for choice in choices)
            return 0.0 if value is None else 1.0

        run(ESGDSampler(4, seed=0), objective, 60)

    def test_relative_sampling_of_a_given_space(self) -> None:
        study = run(ESGDSampler(4, seed=0), sphere, 12)
        space = {
            "x0": FloatDistribution(-5, 5),
            "n": IntDistribution(1, 3),
            "c": CategoricalDistribution(("a", None)),
        }
        trial = study.ask()
        frozen = study._storage.get_trial(trial._trial_id)
        values = study.sampler.sample_relative(study, frozen, space)
        assert values.keys() == space.keys()
        assert values["x0"] == trial.suggest_float("x0", -5, 5)

    def test_with_hyperband_pruning(self) -> None:
        def objective(trial: Trial) -> float:
            value = sphere(trial)
            for step in range(9):
                trial.report(value, step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return value

        study = make_study(ESGDSampler(4, seed=0), pruner=optuna.pruners.HyperbandPruner())
        study.optimize(objective, n_trials=40)
        assert len(study.trials) == 40

    def test_several_objectives_are_refused_with_advice(self) -> None:
        study = make_study(directions=["minimize", "maximize"])
        with pytest.raises(ConfigurationError, match="one fitness, but the study has 2"):
            study.optimize(lambda trial: (sphere(trial), 0.0), n_trials=1)

    def test_one_sampler_for_two_studies(self) -> None:
        sampler = ESGDSampler(4, seed=0)
        studies = [make_study(sampler) for _ in range(2)]
        for _ in range(20):
            for study in studies:
                study.optimize(sphere, n_trials=1)
        assert values_of(studies[0]) == values_of(run(ESGDSampler(4, seed=0), sphere, 20))
        assert values_of(studies[1]) == values_of(studies[0])

    def test_a_study_that_gets_the_id_of_a_deleted_one(self, tmp_path: Path) -> None:
        storage = f"sqlite:///{tmp_path}/esgd.db"
        kept = optuna.storages.RDBStorage(storage)
        sampler = ESGDSampler(4, seed=0)
        before = optuna.create_study(storage=kept, sampler=sampler, study_name="one")
        before.optimize(sphere, n_trials=30)
        optuna.delete_study(study_name="one", storage=kept)
        after = optuna.create_study(
            storage=kept, sampler=sampler, study_name="one", direction="maximize"
        )
        assert after._study_id == before._study_id
        after.optimize(lambda trial: -sphere(trial), n_trials=30)
        assert values_of(after) == values_of(run(ESGDSampler(4, seed=0), sphere, 30))

    def test_nan_is_a_choice_like_any(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            choice = trial.suggest_categorical("x", [math.nan, 1.0, 2.0, 3.0])
            return 0.0 if math.isnan(choice) else choice

        study = run(ESGDSampler(8, seed=0), objective, 100)
        assert sum(trial.value == 0 for trial in study.trials[50:]) > 35

    def test_nobody_infeasible_is_a_parent_while_there_is_another(self) -> None:
        sampler = ESGDSampler(4, seed=0, resample_probability=0.0)
        study = make_study(sampler)
        best = optuna.trial.create_trial(
            params={"x": 0.25}, distributions={"x": FloatDistribution(0, 1)}, value=0.0
        )
        others = [
            optuna.trial.create_trial(
                params={"x": 0.9}, distributions={"x": FloatDistribution(0, 1)}, value=math.inf
            )
            for _ in range(30)
        ]
        study.add_trials([best, *others])
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        (birth,) = next(iter(sampler._births._studies[study._storage].values())).by_trial.values()
        assert isinstance(birth, Offspring)
        assert [birth.survivors[index].fitness for index in birth.parents] == [0.0]

    def test_trials_never_told_are_forgotten_in_the_end(self, monkeypatch: Any) -> None:
        monkeypatch.setattr("optuna_esgd.sampler.births._MAX_REMEMBERED", 5)
        sampler = ESGDSampler(4, seed=0)
        study = make_study(sampler)
        for _ in range(20):
            study.ask().suggest_float("x", 0, 1)
        (births,) = sampler._births._studies[study._storage].values()
        assert len(births.by_trial) == 5


class TestValuesOfIndividuals:
    """Doors with weights: the trainer hands a trial its values."""

    @pytest.fixture
    def sampler(self) -> ESGDSampler:
        return ESGDSampler(4, seed=0)

    def test_what_is_handed_out_is_suggested(self, sampler: ESGDSampler) -> None:
        study = make_study(sampler)
        trial = study.ask()
        sampler.hand_out(trial.number, {"lr": 0.25, "n": 3, "c": None})
        assert trial.suggest_float("lr", 1e-3, 1, log=True) == 0.25
        assert trial.suggest_int("n", 1, 4) == 3
        assert trial.suggest_categorical("c", ["a", None]) is None
        sampler.take_back(trial.number)
        sampler.take_back(trial.number)
        assert trial.suggest_float("other", 0, 1) >= 0

    def test_other_trials_are_not_concerned(self, sampler: ESGDSampler) -> None:
        study = make_study(sampler)
        trials = [study.ask() for _ in range(8)]

        def suggest(trial: optuna.Trial) -> None:
            sampler.hand_out(trial.number, {"x": float(trial.number)})
            trial.suggest_float("x", 0, 10)
            sampler.take_back(trial.number)

        threads = [threading.Thread(target=suggest, args=(trial,)) for trial in trials]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [trial.params["x"] for trial in trials] == list(range(8))

    def test_a_value_of_another_type_becomes_the_distribution_s(
        self, sampler: ESGDSampler
    ) -> None:
        trial = make_study(sampler).ask()
        sampler.hand_out(trial.number, {"x": 1, "c": 1})
        assert type(trial.suggest_float("x", 0, 2)) is float
        assert trial.suggest_categorical("c", [True, 1]) is not True

    @pytest.mark.parametrize("value", [2.5, math.nan, "a", None])
    def test_a_value_outside_is_refused(self, sampler: ESGDSampler, value: Any) -> None:
        trial = make_study(sampler).ask()
        sampler.hand_out(trial.number, {"x": value})
        with pytest.raises(
            StudyError, match=r"Parameter 'x' of trial 0 cannot take .* not a value"
        ):
            trial.suggest_float("x", 0, 2)

    def test_a_choice_that_is_none_is_refused(self, sampler: ESGDSampler) -> None:
        trial = make_study(sampler).ask()
        sampler.hand_out(trial.number, {"c": "b"})
        with pytest.raises(StudyError, match="'b' is not a value of CategoricalDistribution"):
            trial.suggest_categorical("c", ["a", None])

    def test_a_parameter_the_individual_lacks_is_refused(self, sampler: ESGDSampler) -> None:
        trial = make_study(sampler).ask()
        sampler.hand_out(trial.number, {"lr": 0.1})
        with pytest.raises(StudyError, match=r"asks for the parameter 'x'.*\['lr'\] only"):
            trial.suggest_float("x", 0, 1)

    def test_slots_stay_with_their_process(self, sampler: ESGDSampler) -> None:
        sampler.hand_out(0, {"x": 1.0})
        for other in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
            assert other.running_trials is not sampler.running_trials
            assert other.settings == sampler.settings
            assert other.held_slots is not sampler.held_slots
            assert make_study(other).ask().suggest_float("y", 0, 1) >= 0


def test_unwrap() -> None:
    sampler = ESGDSampler()
    assert unwrap(sampler) is sampler
    wrapped = PartialFixedSampler({"y": 1}, PartialFixedSampler({"x": 1}, sampler))
    assert unwrap(wrapped) is sampler
    assert unwrap(RandomSampler()) is None
    assert unwrap(PartialFixedSampler({}, RandomSampler())) is None
