"""Code of the user's that raises: said in words, with the line where it went wrong."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from optuna_esgd.errors import ConfigurationError, EsgdError


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


def _line_in(path: Path, error: Exception) -> int | None:
    """The last line of the file that was reached; None if none was."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((one.lineno for one in reversed(frames) if one.filename == str(path)), None)
