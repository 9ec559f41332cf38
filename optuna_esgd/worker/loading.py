"""The trainer that ``FILE.py:NAME`` names, and the study it trains."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optuna
from optuna.study import StudyDirection

from optuna_esgd.errors import ConfigurationError, StorageError, StudyError
from optuna_esgd.sampler import ESGDSampler
from optuna_esgd.store.engines import is_in_memory, parse_url
from optuna_esgd.store.storages import create_storage, load_study, optunas_errors_in_words
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.named_files import NamedFile, load_named_file, split_name
from optuna_esgd.trainer.user_code import blamed_on_the_file

# What is looked for in the file that is named, and an example.
TRAINER = ("the trainer", "train.py:trainer")
_SAMPLER = "sampler"


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Everything a worker needs to be told, as plain values.

    Attributes:
        trainer: ``FILE.py:NAME``.
        storage: Database URL of the study.
        study: The study's name; it is made if it is not there.
        store: Database URL of the weights, if it is another one.
        device: Where to train; None for the first GPU, or the CPU.
        n_generations: After which the study is done; None for what the file's sampler says.
        direction: The study must have; None to minimise where it is not there yet.
    """

    trainer: str
    storage: str
    study: str
    store: str | None = None
    device: str | None = None
    n_generations: int | None = None
    direction: Literal["minimize", "maximize"] | None = None


def open_workplace(workplace: Workplace) -> tuple[ESGDTrainer, optuna.Study]:
    """Load the trainer, and load or make the study.

    Raises:
        ConfigurationError: The file raises, or does not define what it should.
        StudyError: Nobody has said how many generations there are, or the study is there
            already and goes the other way.
        StorageError: The database cannot be reached.
    """
    for url in (workplace.storage, workplace.store):
        if url is not None and is_in_memory(parse_url(url)):
            raise StorageError(
                "Workers are processes that share a database; one in memory cannot be shared. "
                "Name a file (sqlite:///esgd.db) or a server."
            )
    trainer, sampler = load_trainer(
        workplace.trainer, device=workplace.device, n_generations=workplace.n_generations
    )
    if sampler.settings.n_generations is None:
        raise StudyError(
            "Workers train until all generations are done, and nobody has said how many there "
            f"are. Add --generations N, or define {_SAMPLER} = ESGDSampler(n_generations=N) in "
            f"{Path(workplace.trainer.rpartition(':')[0]).name}."
        )
    if workplace.store is not None:
        trainer.store = workplace.store
    storage, direction = create_storage(workplace.storage), workplace.direction or "minimize"
    with optunas_errors_in_words(workplace.storage):
        is_new = workplace.study not in optuna.get_all_study_names(storage)
    if is_new:
        with blamed_on_the_file(split_name(workplace.trainer, *TRAINER)[0]):  # build_model, data
            trainer.check([StudyDirection[direction.upper()]])
    with optunas_errors_in_words(workplace.storage):
        study = optuna.create_study(
            study_name=workplace.study,
            storage=storage,
            sampler=sampler,
            direction=direction,
            load_if_exists=True,
        )
    stands = ", ".join(one.name.lower() for one in study.directions)
    if workplace.direction not in (None, stands):
        raise StudyError(
            f"Study {workplace.study!r} has been made with direction {stands!r}, and stays so; "
            f"--direction says {workplace.direction!r}. Leave it out, or choose another --study."
        )
    return trainer, study


def load_trainer(
    trainer: str, *, device: str | None = None, n_generations: int | None = None
) -> tuple[ESGDTrainer, ESGDSampler]:
    """Run a file, and find its trainer and its sampler there; nothing else is touched.

    Args:
        trainer: ``FILE.py:NAME``.
        device: Where to train; None for what the file says.
        n_generations: None for what the file's sampler says, if it does.

    Raises:
        ConfigurationError: The file raises, or does not define what it should.
    """
    file = load_named_file(trainer, *TRAINER)
    found = _find_trainer(file)
    if device is not None:
        found.to(device)
    return found, _find_sampler(file, n_generations)


class Trained(NamedTuple):
    """A study that has been trained, the trainer, and the file this was found in."""

    trainer: ESGDTrainer
    study: optuna.Study
    file: NamedFile


def open_trained(
    named: str, *, storage: str, study: str, store: str | None = None, device: str | None = None
) -> Trained:
    """Load the trainer, and the study it has trained; nothing is made.

    Args:
        named: ``FILE.py:NAME`` of the trainer.
        storage: Database URL of the study.
        study: Its name.
        store: Database URL of the weights, if it is another one.
        device: Where to train; None for the first GPU, or the CPU.

    Raises:
        ConfigurationError: The file raises, or does not define what it should.
        StudyError: There is no such study.
        StorageError: The database cannot be reached, or is not there.
    """
    file = load_named_file(named, *TRAINER)
    trainer = _find_trainer(file)
    if device is not None:
        trainer.to(device)
    if store is not None:
        trainer.store = store
    return Trained(trainer, load_study(storage, study), file)


def _find_trainer(file: NamedFile) -> ESGDTrainer:
    found, path, name = file.found, file.path.name, file.name
    if callable(found) and not isinstance(found, ESGDTrainer):
        if _takes_arguments(found):
            raise ConfigurationError(
                f"{name} in {path} must be an ESGDTrainer, or a function without arguments "
                "that makes one; it takes arguments. (An objective with esgd.sgd_step has no "
                "trainer: study.optimize runs it.)"
            )
        with blamed_on_the_file(file.path):
            found = found()
    if not isinstance(found, ESGDTrainer):
        raise ConfigurationError(
            f"{path} must define {name} as an ESGDTrainer, or as a function without arguments "
            f"that makes one; got {type(found).__name__}."
        )
    return found


def _takes_arguments(made_by: Callable[..., Any]) -> bool:
    try:
        inspect.signature(made_by).bind()
    except TypeError:
        return True
    except ValueError:  # builtins may have no signature
        return False
    return False


def _find_sampler(file: NamedFile, n_generations: int | None) -> ESGDSampler:
    sampler: Any = getattr(file.module, _SAMPLER, None)
    if sampler is None:
        sampler = ESGDSampler()
    if not isinstance(sampler, ESGDSampler):
        raise ConfigurationError(
            f"{_SAMPLER} in {file.path.name} must be an ESGDSampler, got {type(sampler).__name__}."
        )
    if n_generations is not None:
        sampler.set_generations(n_generations)
    return sampler
