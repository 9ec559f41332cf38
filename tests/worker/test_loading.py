"""FILE.py:NAME, and the study it trains."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.study import StudyDirection

from optuna_esgd.errors import ConfigurationError, EsgdError, StorageError, StudyError
from optuna_esgd.store.storages import create_storage
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.faces import find_sampler
from optuna_esgd.worker import loading
from optuna_esgd.worker.loading import Workplace, open_workplace
from tests.worker.runs import FILE


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(
        trainer=f"{FILE}:trainer", storage=f"sqlite:///{tmp_path}/esgd.db", study="digits"
    )


@pytest.mark.parametrize("name", ["trainer", "make_trainer"])
def test_a_trainer_or_a_function_that_makes_one(workplace: Workplace, name: str) -> None:
    trainer, study = open_workplace(replace(workplace, trainer=f"{FILE}:{name}"))
    assert isinstance(trainer, ESGDTrainer)
    assert (study.study_name, study.direction) == ("digits", StudyDirection.MINIMIZE)
    settings = find_sampler(study).settings
    assert (settings.population_size, settings.n_generations) == (4, 3)


def test_options_go_before_the_file(workplace: Workplace) -> None:
    given = replace(
        workplace, n_generations=7, direction="maximize", store="sqlite:///other.db", device="cpu"
    )
    trainer, study = open_workplace(given)
    assert trainer.store == "sqlite:///other.db"
    assert find_sampler(study).settings.n_generations == 7
    assert study.direction == StudyDirection.MAXIMIZE


def test_a_study_that_is_there_keeps_its_direction(workplace: Workplace) -> None:
    open_workplace(replace(workplace, direction="maximize"))
    assert open_workplace(workplace)[1].direction == StudyDirection.MAXIMIZE
    with pytest.raises(StudyError, match=r"'maximize', and stays so; --direction says 'minimize'"):
        open_workplace(replace(workplace, direction="minimize"))


def test_a_study_with_several_directions_is_left_to_the_trainer(workplace: Workplace) -> None:
    both = ["minimize", "maximize"]
    optuna.create_study(storage=workplace.storage, study_name="digits", directions=both)
    trainer, study = open_workplace(workplace)
    with pytest.raises(ConfigurationError, match="2 directions"):
        trainer.open(study)


def test_no_study_is_made_for_what_is_refused(workplace: Workplace) -> None:
    """Else the next attempt would find it, with the direction of this one."""
    with pytest.raises(ConfigurationError, match="its loss must be minimised"):
        open_workplace(replace(workplace, trainer=f"{FILE}:supervised", direction="maximize"))
    assert optuna.get_all_study_names(workplace.storage) == []
    open_workplace(replace(workplace, trainer=f"{FILE}:supervised"))


def test_a_study_that_is_there_is_joined(workplace: Workplace) -> None:
    _, study = open_workplace(workplace)
    study.ask()
    assert len(open_workplace(workplace)[1].trials) == 1


def test_a_file_without_a_sampler_needs_the_generations(
    workplace: Workplace, tmp_path: Path
) -> None:
    lines = FILE.read_text().splitlines()
    path = tmp_path / "no_sampler.py"
    path.write_text("\n".join(line for line in lines if not line.startswith("sampler")))
    given = replace(workplace, trainer=f"{path}:trainer")
    with pytest.raises(StudyError, match="--generations"):
        open_workplace(given)
    _, study = open_workplace(replace(given, n_generations=2))
    assert find_sampler(study).settings.n_generations == 2


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ("train.py", "FILE.py:NAME"),
        ("train.py:1", "FILE.py:NAME"),
        ("nowhere.py:trainer", "no file"),
        (f"{FILE}:nothing", "NoneType"),
        (f"{FILE}:trainr", "Did you mean 'trainer'"),
        (f"{FILE}:name", r"does not define 'name'\.$"),  # there is __name__
        (f"{FILE}:unknown", "does not define 'unknown'"),
        ("examples/objective_plain.py:objective", "it takes arguments"),
        (f"{FILE}:Slow", "Slow"),
    ],
)
def test_what_is_no_trainer_is_refused(workplace: Workplace, trainer: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_workplace(replace(workplace, trainer=trainer))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("x = 1\ntrainer = (", r"Line 2 raised SyntaxError: '\(' was never closed"),
        ("x = 1\nimport nowhere", "Line 2 raised ModuleNotFoundError: No module named 'nowhere'"),
        ("def f():\n    raise ValueError\n\nf()", "Line 2 raised ValueError$"),
        ("import json\n\njson.loads('{')", "Line 3 raised JSONDecodeError: Expecting property"),
        ("def trainer():\n    return 1 / 0", "Line 2 raised ZeroDivisionError: division by zero"),
        ("trainer = lambda: {}['x']", "Line 1 raised KeyError: 'x'"),
    ],
)
def test_a_file_that_raises_is_said_with_its_line(
    workplace: Workplace, tmp_path: Path, lines: str, message: str
) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(lines)
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_workplace(replace(workplace, trainer=f"{path}:trainer"))
    assert str(caught.value).startswith(f"{path} cannot be used.")
    assert type(caught.value.__cause__).__name__ in message


def test_a_model_that_cannot_be_built_is_said_with_its_line(
    workplace: Workplace, tmp_path: Path
) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        "import optuna_esgd as esgd\n"
        "class Own(esgd.Task):\n"
        "    def build_model(self):\n"
        "        return 1 / 0\n"
        "    def train_epoch(self, model, optimizer, epoch): ...\n"
        "    def fitness(self, model): ...\n"
        "sampler = esgd.ESGDSampler(4, n_generations=1)\n"
        "trainer = esgd.ESGDTrainer(Own())\n"
    )
    with pytest.raises(ConfigurationError, match="Line 4 raised ZeroDivisionError"):
        open_workplace(replace(workplace, trainer=f"{path}:trainer"))
    assert optuna.get_all_study_names(workplace.storage) == []


def test_errors_of_a_neighbour_name_the_line_that_imports_it(
    workplace: Workplace, tmp_path: Path
) -> None:
    (tmp_path / "neighbour_of_train.py").write_text("\n\n\nx = )")
    (tmp_path / "train.py").write_text("x = 1\nimport neighbour_of_train")
    with pytest.raises(ConfigurationError, match=r"Line 2 .*\(neighbour_of_train.py, line 4\)$"):
        open_workplace(replace(workplace, trainer=f"{tmp_path}/train.py:trainer"))


def test_errors_of_this_package_come_as_they_are(workplace: Workplace, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("import optuna_esgd as esgd\ntrainer = esgd.ESGDTrainer(7)")
    with pytest.raises(ConfigurationError, match=r"^task must be a Task"):
        open_workplace(replace(workplace, trainer=f"{path}:trainer"))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_file_may_end_the_process(
    workplace: Workplace, tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"raise {kind.__name__}")
    with pytest.raises(kind):
        open_workplace(replace(workplace, trainer=f"{path}:trainer"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_generations": 0},
        {"device": "cuda:99"},
        {"storage": "mongodb://x"},
        {"storage": "sqlite://"},
        {"store": "sqlite:///:memory:"},
    ],
)
def test_wrong_options_are_refused(workplace: Workplace, wrong: dict[str, object]) -> None:
    with pytest.raises(EsgdError):
        open_workplace(replace(workplace, **wrong))


def test_a_file_that_is_read_only_is_said_in_words(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made so by its connections: an administrator may write to any file."""

    def close(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA query_only = ON")

    storage = create_storage(workplace.storage)
    sa.event.listen(storage.engine, "connect", close)
    storage.engine.dispose()
    monkeypatch.setattr(loading, "create_storage", lambda _url: storage)
    with pytest.raises(StorageError, match=r"cannot use its tables.*readonly database"):
        open_workplace(workplace)
