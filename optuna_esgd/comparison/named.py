"""A benchmark that is named on the command line: it can travel to other processes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.named_files import NamedFile, load_named_file
from optuna_esgd.trainer.user_code import blamed_on_the_file


@dataclass(frozen=True)
class NamedBenchmark:
    """The function that ``FILE.py:NAME`` names, looked up once per process.

    Attributes:
        text: ``FILE.py:NAME``.
    """

    text: str

    def __call__(self, seed: int) -> Any:
        """What the function makes of a seed.

        Raises:
            ConfigurationError: There is no such file, no such function in it, or either raises.
        """
        file = _find(self.text)
        with blamed_on_the_file(file.path):
            return file.found(seed)


@cache
def _find(text: str) -> NamedFile:
    file = load_named_file(text, "the benchmark", "digits_esgd.py:mlp")
    if not callable(file.found) or isinstance(file.found, ESGDTrainer):
        raise ConfigurationError(
            f"{file.path.name} must define {file.name} as a function that takes a seed and "
            f"returns an esgd.Benchmark; got {type(file.found).__name__}."
        )
    try:
        inspect.signature(file.found).bind(0)
    except TypeError as error:
        raise ConfigurationError(
            f"{file.name} of {file.path.name} must take one argument, the seed: {error}."
        ) from None
    except ValueError:  # a callable that does not say what it takes
        pass
    return file
