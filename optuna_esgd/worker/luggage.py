"""What travels with workers to the nodes of a Ray cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna_esgd
from optuna_esgd.store.engines import parse_url, sqlite_path
from optuna_esgd.trainer.named_files import split_name
from optuna_esgd.worker.loading import TRAINER, Workplace

# Where ``ray job submit`` says what travels with the job.
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def pack_luggage(workplace: Workplace) -> dict[str, Any]:
    """What travels to the nodes: the folder of the trainer's file, and this package.

    Where the job has brought something itself (``ray job submit --working-dir``), that stands.
    """
    folder = split_name(workplace.trainer, *TRAINER)[0].parent
    luggage = {
        "working_dir": str(folder),
        "py_modules": [str(Path(optuna_esgd.__file__).parent)],
        "excludes": [
            f"/{file.relative_to(folder)}*"  # with its write-ahead log
            for file in _database_files(workplace)
            if file.is_relative_to(folder)
        ],
    }
    return {name: one for name, one in luggage.items() if name not in _brought_by_job()}


def name_on_nodes(trainer: str) -> str:
    """The trainer's name seen from the folder that has travelled, where workers start."""
    path, attribute = split_name(trainer, *TRAINER)
    folder = Path.cwd() if "working_dir" in _brought_by_job() else path.parent
    return f"{path.relative_to(folder) if path.is_relative_to(folder) else path}:{attribute}"


def _database_files(workplace: Workplace) -> list[Path]:
    urls = [parse_url(url) for url in (workplace.storage, workplace.store) if url is not None]
    return [sqlite_path(url) for url in urls if url.get_backend_name() == "sqlite"]


def _brought_by_job() -> Mapping[str, Any]:
    job = json.loads(os.environ.get(_JOB_VARIABLE, "{}"))
    return job.get("runtime_env") or {}
