"""``FILE.py:NAME``: files of the user's that are named on the command line."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.user_code import blamed_on_the_file


class NamedFile(NamedTuple):
    """A file that has been run, the name in it that is meant, and what it stands for."""

    path: Path
    module: ModuleType
    name: str
    found: Any


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
        ConfigurationError: The text does not name a Python file, the file has no such name, or
            running it raised.
    """
    path, name = split_name(text, what, example)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ConfigurationError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(specification)
    # As for a script: its neighbours can be imported, and what it defines is found by its name.
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    with blamed_on_the_file(path):
        specification.loader.exec_module(module)
    return NamedFile(path, module, name, look_up(path, module, name))


def look_up(path: Path, module: ModuleType, name: str) -> Any:
    """What a file that has been run defines under a name.

    Raises:
        ConfigurationError: It defines nothing under it; says which name comes close.
    """
    if not hasattr(module, name):
        names = [one for one in vars(module) if not one.startswith("_")]
        guesses = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {guesses[0]!r}?" if guesses else ""
        raise ConfigurationError(f"{path.name} does not define {name!r}.{hint}")
    return getattr(module, name)
