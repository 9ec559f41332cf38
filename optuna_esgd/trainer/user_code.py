"""Code of the user's that raises: said in words, with the line where it went wrong."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from optuna_esgd.errors import ConfigurationError, EsgdError

# Where what is installed lies, this package, and what is no file ("<frozen importlib>").
_NOT_THEIRS = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
    "<",
)


@contextlib.contextmanager
def blamed_on_the_file(path: Path) -> Iterator[None]:
    """Say of what a user's file raises in a block where in it that was.

    Raises:
        ConfigurationError: The block raised anything but an error of this package's, which says
            by itself what is wrong.
    """
    try:
        yield
    except EsgdError:
        raise
    except Exception as error:
        number = _line_in(path, error)
        line = "It" if number is None else f"Line {number}"
        raise ConfigurationError(
            f"{path} cannot be used. {line} raised {in_words(error)}"
        ) from error


def in_words(error: Exception) -> str:
    """Its kind and its text, as at the end of a traceback."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of(error: Exception) -> str:
    """The last line that was reached outside of what is installed: most likely the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [one for one in frames if not one.filename.startswith(_NOT_THEIRS)]
    last = (theirs or frames)[-1]
    return f"{last.filename}, line {last.lineno}, in {last.name},"


def _line_in(path: Path, error: Exception) -> int | None:
    """The last line of the file that was reached; None if none was."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((one.lineno for one in reversed(frames) if one.filename == str(path)), None)
