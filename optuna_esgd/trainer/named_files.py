"""``FILE.py:NAME``: files of the user's that are named on the command line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from optuna_esgd.errors import ConfigurationError


class NamedFile(NamedTuple):
    """A file that has been run, and the name in it that is meant."""

    path: Path
    module: ModuleType
    name: str


def split_name(text: str, what: str, example: str) -> tuple[Path, str]:
    """The file, absolute, and the name in it.

    Args:
        text: ``FILE.py:NAME``.
        what: What is looked for in it, in words.
        example: How that may be named.

    Raises:
        ConfigurationError: The text is not of that form, or there is no such file.
    """
    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        raise ConfigurationError(
            f"Name a file and {what} in it, FILE.py:NAME ({example}), got {text!r}."
        )
    path = Path(file).resolve()
    if not path.is_file():
        raise ConfigurationError(f"There is no file {file}.")
    return path, name


def load_named_file(text: str, what: str, example: str) -> NamedFile:
    """Run the file; it is the only code of the user's that is ever loaded.

    Args:
        text: See ``split_name``, also for the others.
        what: What is looked for.
        example: How that may be named.

    Raises:
        ConfigurationError: The text does not name a Python file.
    """
    path, name = split_name(text, what, example)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ConfigurationError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(specification)
    # As for a script: its neighbours can be imported, and what it defines is found by its name.
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return NamedFile(path, module, name)
