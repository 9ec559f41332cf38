"""The discovered schedule of optimizers, as a training script in plain PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.errors import ConfigurationError, WeightsNotFoundError
from optuna_esgd.evolution.back_off import BackOff
from optuna_esgd.species.base import Species
from optuna_esgd.species.state import STATE_OF_OPTION
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.guidance import SCHEDULES, described
from optuna_esgd.trainer.results import find_individual
from optuna_esgd.trainer.spaces import of_species
from optuna_esgd.trainer.supervised import Criterion, SupervisedTask
from optuna_esgd.trainer.task import shown_value
from optuna_esgd.trainer.written_files import checked_target, write_whole

# A complete program, checked like the rest of the package; parts of it are written anew.
_PROGRAM = Path(__file__).with_name("plain_training.py")
_BEGIN, _END = "# SCHEDULE\n", "# END OF SCHEDULE\n"


def export_schedule(
    study: optuna.Study,
    trainer: ESGDTrainer,
    path: str | os.PathLike[str],
    *,
    trial: int | FrozenTrial | None = None,
) -> Path:
    """Write the schedule that trained the best individual as a script that needs torch alone.

    The schedule is that of its main line, from first parent to first parent: which optimizer
    with which settings in which generation, for the epochs that were kept. Steps that backed off
    to their birth left nothing behind and are left out. Recombinations are named in comments and
    left out too: the script trains one network. So it is a schedule for training such networks,
    not the same bits again; for these see ``replay``.

    With ``back_off="best"`` the database does not say which epoch of a step that ended better
    than its birth, but not with its last epoch, was the best: the script trains all of them, and
    like the run it returns to the one that validates best.

    Args:
        study: A study that was trained with this trainer.
        trainer: Knows its optimizers and its task.
        path: The script to write; model and data are filled in where it says so.
        trial: Whose schedule, by the trial that shows it; the best individual's if None.

    Raises:
        ConfigurationError: The schedule cannot be said in plain torch: an optimizer that torch
            does not have, a task with a loop of its own, batches that a sampler chooses, a
            schedule of your own; or the trainer is not that of the run.
        StudyError: The study has no population.
        WeightsNotFoundError: Nobody has finished yet.
    """
    if not isinstance(trainer, ESGDTrainer):
        raise ConfigurationError(
            f"A schedule is written with the ESGDTrainer of the run, got {type(trainer).__name__}."
        )
    task = _plain_task(trainer)
    target = checked_target(path)
    population = open_results(study, trainer.store)
    configuration = trainer.check_configuration(population.configuration)
    everyone = {one.reference: one for one in population.individuals()}
    line = main_line(find_individual(population, trial), everyone)
    if not line or line[-1].fitness is None:
        raise WeightsNotFoundError("The individual has not finished; export when it has.")
    steps = _steps(line, trainer.species, configuration)
    constants = {
        "BATCH_SIZE": task.train.batch_size,
        "DROP_LAST": task.train.drop_last and len(task.train) > task.train.batch_size,
        "BACK_OFF": configuration.back_off,
        "STEP_EPOCHS": configuration.n_epochs,
        "IS_COSINE": task.schedule is SCHEDULES["cosine"],
        "RATES_FALL": configuration.rate_schedule == "cosine",
        "AVERAGES": configuration.average_iterates,
        "AVERAGES_STEPS": configuration.average_steps,
        "IS_BFLOAT16": task.precision == "bfloat16",
        "MAXIMIZE": configuration.maximize,
        "SEED": configuration.seed,
        "STATE_OF_OPTION": STATE_OF_OPTION,
    }
    program = _PROGRAM.read_text(encoding="utf-8").replace(
        "HEADER.", _header(study.study_name, line[-1], configuration), 1
    )
    before, rest = program.split(_BEGIN)
    _, after = rest.split(_END)
    lines = [
        "STEPS: list[Step] = [",
        *steps,
        "]",
        *(f"{name} = {value!r}" for name, value in constants.items()),
    ]
    before = _fill_in_functions(before, task)
    text = before + "\n".join(lines) + "\n" + after
    return write_whole(target, [text.encode()])


def main_line(
    individual: Individual, everyone: Mapping[Reference, Individual]
) -> list[Individual]:
    """Those who trained on an individual's line of first parents, a founder first."""
    line = [individual]
    while (parent := line[-1].first_parent) is not None:
        line.append(everyone[parent])
    return [one for one in reversed(line) if one.reference.round == 0]


def epochs_kept(one: Individual, back_off: BackOff) -> int:
    """How many epochs of an SGD step its end is made of, as far as the database says.

    With ``"best"`` these are all or none: see ``export_schedule``.
    """
    if back_off == "step":
        return max(0, one.n_epochs - one.n_back_offs)
    has_returned = one.n_back_offs > 0 and one.fitness == one.birth_fitness
    return 0 if has_returned and back_off == "best" else one.n_epochs


def _steps(
    line: Sequence[Individual], species: Mapping[str, Species], configuration: Configuration
) -> list[str]:
    """The schedule in Python, a comment before each step."""
    written: list[str] = []
    is_carried = False  # whether the state so far has come through steps that are left out
    for one in line:
        about = _about(one, configuration)
        is_carried = is_carried and one.inherits_optimizer_state
        n_epochs = epochs_kept(one, configuration.back_off)
        if configuration.average_steps:
            n_epochs = one.n_epochs  # others may have gone on from where its training stood
        if n_epochs == 0:
            written.append(f"    # {about}; backed off to its birth: left out")
            continue
        own = species[one.species]
        settings = own.arguments(of_species(own, one.hyperparameters))
        parts = [
            _torch_name(own, one),
            _dictionary(settings, one),
            f"n_epochs={n_epochs}",
            f"goes_on={is_carried}",
        ]
        if configuration.average_steps and one.inherits_optimizer_state:
            parts.append("is_ahead=True")
        if "dropout" in one.hyperparameters and "dropout" not in own.space:
            parts.append(f"dropout={one.hyperparameters['dropout']!r}")
        written.append(f"    # {about}")
        written.append("    Step(\n        " + ",\n        ".join(parts) + ",\n    ),")
        is_carried = configuration.inherit_optimizer_state
    return written


def _about(one: Individual, configuration: Configuration) -> str:
    """A comment: who trained, how it was born, and what came of it."""
    values = [
        "?" if fitness is None else f"{shown_value(fitness, maximize=configuration.maximize):.6g}"
        for fitness in (one.birth_fitness, one.fitness)
    ]
    born: str = one.birth
    if one.birth == "recombination":
        parents = ", ".join(str(parent) for parent in one.parents)
        born = f"born as the mean of {parents} (that is left out; the first of them goes on)"
    return f"{one.reference}, {one.species}, {born}: {values[0]} -> {values[1]}"


def _torch_name(species: Species, one: Individual) -> str:
    """How torch calls the optimizer.

    Raises:
        ConfigurationError: It is not torch's.
    """
    cls = species.optimizer_class
    if getattr(torch.optim, cls.__name__, None) is not cls:
        raise ConfigurationError(
            f"Individual {one.reference} on the best one's line trained with {species.name}, "
            f"which is {cls.__module__}.{cls.__name__}: torch.optim has no such optimizer, so a "
            "script that needs torch alone cannot use it. Export another trial's schedule "
            "(trial=...), or run with torch's optimizers only."
        )
    return f"torch.optim.{cls.__name__}"


def _dictionary(settings: Mapping[str, Any], one: Individual) -> str:
    for name, value in settings.items():
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, bool | int | float | str | type(None)) for part in parts):
            raise ConfigurationError(
                f"{name} of individual {one.reference} is a {type(value).__name__}; only numbers, "
                "texts, booleans, None and tuples of them can be written into a script."
            )
    lines = [f"            {name!r}: {_literal(value)}," for name, value in settings.items()]
    return "\n".join(["{", *lines, "        }"])


def _literal(value: Any) -> str:
    """A value as Python reads it; infinity has no literal."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return repr(value)


def _plain_task(trainer: ESGDTrainer) -> SupervisedTask:
    """The task, if plain torch can train it.

    Raises:
        ConfigurationError: It cannot.
    """
    task = trainer.task
    if not isinstance(task, SupervisedTask) or type(task).train_epoch is not (
        SupervisedTask.train_epoch
    ):
        raise ConfigurationError(
            f"{type(task).__name__} trains with a loop of its own, which a script cannot know. "
            "Schedules of a SupervisedTask can be exported."
        )
    if task.make_sampler is not None:
        raise ConfigurationError(
            f"The batches were chosen by {described(task.make_sampler)}, which plain torch lacks; "
            "such a schedule cannot be exported."
        )
    if task.schedule not in (None, SCHEDULES["cosine"]):
        raise ConfigurationError(
            f"Within each SGD step the schedule {described(task.schedule)} was at work; only "
            "'cosine', or none, can be exported."
        )
    return task


def _fill_in_functions(program: str, task: SupervisedTask) -> str:
    """Call loss and metric by torch's names; others are for the user to fill in."""
    functions = {
        "loss": _torch_function(task.loss),
        "metric": "loss" if task.metric is None else _torch_function(task.metric),
    }
    for name, function in functions.items():
        if function is not None:
            program = program.replace(
                f'raise NotImplementedError("Fill in the {name}.")',
                f"return {function}(outputs, targets)",
            )
    return program


def _torch_function(criterion: Criterion) -> str | None:
    name = getattr(criterion, "__name__", "")
    is_torch = getattr(torch.nn.functional, name, None) is criterion if name else False
    return f"nn.functional.{name}" if is_torch else None


def _header(study_name: str, winner: Individual, configuration: Configuration) -> str:
    value = shown_value(winner.fitness_or_inf, maximize=configuration.maximize)
    return (
        (
            f"A schedule that evolved in study {study_name!r}, for training one network.\n\n"
            f"It is the line of first parents of individual {winner.reference}, which ended with\n"
            f"{value:.6g}. What that line got by averaging is left out, so a network trained by\n"
            "this script ends elsewhere, mostly worse; how much depends on where it starts.\n\n"
            "The script needs torch alone. Fill in the model and the data below, then\n"
            "``python SCRIPT.py [weights.pt]``. After each epoch the network is validated, and\n"
            "backs off as the individuals did.\n"
        )
        .replace("\\", "\\\\")
        .replace('"""', "'''")
    )
