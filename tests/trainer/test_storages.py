"""The snippet of the README on every kind of database, as users write their URLs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import optuna
import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.errors import StudyError
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.verification import verify
from tests.databases import MakeDatabase
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task

README = Path(__file__).parents[2] / "README.md"


def snippet() -> str:
    """The first Python block of the README, for fewer and smaller networks."""
    block = re.search(r"```python\n(import optuna.*?)```", README.read_text(), re.DOTALL)
    assert block
    text = block.group(1)
    for original, smaller in (("16 * 20", "4 * 3"), ("population_size=16", "population_size=4")):
        assert original in text
        text = text.replace(original, smaller)
    return text


def run_snippet(text: str) -> dict[str, object]:
    (x_train, y_train), (x_validation, y_validation) = examples("mlp", 0), examples("mlp", 1)
    names: dict[str, object] = {
        "torch": torch,
        "build_model": MODELS["mlp"][0],
        "x_train": x_train,
        "y_train": y_train,
        "x_validation": x_validation,
        "y_validation": y_validation,
    }
    exec(text, names)
    return names


def plain_url(url: str) -> str:
    """As people write it, without a driver; the driver stays where only that one is installed."""
    if url.startswith("mysql+") and importlib.util.find_spec("MySQLdb") is None:
        pytest.skip("mysqlclient, which mysql:// stands for in SQLAlchemy, is not installed")
    return re.sub(r"\+\w+://", "://", url)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_snippet_on_a_database(kind: str, make_database: MakeDatabase) -> None:
    text = snippet()
    url = plain_url(make_database(kind))
    assert '"sqlite:///esgd.db"' in text
    names = run_snippet(text.replace("sqlite:///esgd.db", url))
    study = names["study"]
    assert isinstance(study, optuna.Study)
    again = optuna.load_study(study_name="digits", storage=url)
    model = esgd.load_best(again, MODELS["mlp"][0]())
    for one, other in zip(model.parameters(), names["model"].parameters(), strict=True):
        assert torch.equal(one, other)
    assert verify(open_results(again)) == []


def test_snippet_in_memory() -> None:
    text, n_removed = re.subn(
        r',\s*storage="sqlite:///esgd.db", study_name="digits"', "", snippet()
    )
    assert n_removed == 1
    study = run_snippet(text)["study"]
    assert isinstance(study, optuna.Study)
    assert len(study.trials) == 12


def test_weights_in_another_database(tmp_path: Path) -> None:
    weights = f"sqlite:///{tmp_path}/weights.db"
    study = make_study(storage=f"sqlite:///{tmp_path}/study.db")
    task = make_task()
    study.optimize(esgd.ESGDTrainer(task, store=weights), n_trials=8)
    model = esgd.load_best(study, task.build_model(), store=weights)
    assert task.fitness(model) <= study.best_value * (1 + 1e-6)


def test_storages_without_a_database_need_a_store(tmp_path: Path) -> None:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    study = make_study(storage=storage)
    with pytest.raises(StudyError, match="store="):
        study.optimize(esgd.ESGDTrainer(make_task()), n_trials=1)
    store = f"sqlite:///{tmp_path}/weights.db"
    study.optimize(esgd.ESGDTrainer(make_task(), store=store), n_trials=8)
    assert verify(open_results(study, store)) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_all_databases_hold_the_same_bits(kind: str, make_database: MakeDatabase) -> None:
    digests = []
    for storage in (None, make_database(kind)):
        study = make_study(storage=storage)
        study.optimize(esgd.ESGDTrainer(make_task("batch-norm")), n_trials=12)
        digests.append([one.weights for one in open_results(study).individuals()])
    assert digests[0] == digests[1]
