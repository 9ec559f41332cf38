"""Files that commands write: whole or absent, and what is in the way is said in words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from optuna_esgd.errors import ConfigurationError


def checked_target(path: str | os.PathLike[str]) -> Path:
    """The file that is to be written.

    Raises:
        ConfigurationError: It is a folder, or would be in one that is not there or closed.
    """
    target = Path(path)
    if target.is_dir():
        raise ConfigurationError(f"{target} is a folder; name the file to write in it.")
    if not target.parent.is_dir():
        raise ConfigurationError(f"There is no folder {target.parent} to write {target.name} to.")
    if not os.access(target.parent, os.W_OK):
        raise ConfigurationError(f"The folder {target.parent} cannot be written to.")
    return target


def write_whole(path: str | os.PathLike[str], pieces: Iterable[bytes]) -> Path:
    """Write a file beside its place, and move it there.

    Raises:
        ConfigurationError: See ``checked_target``; or the disk is full, or read-only.
    """
    target = checked_target(path)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ConfigurationError(f"{target} cannot be written: {error.strerror}.") from None
    return target
