"""C programs as loaded libraries: compiled once per user and machine, kept in a folder."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

_logger = logging.getLogger(__name__)

# NaN and infinite numbers stay what they are, and sums are added up as they are written.
_FLAGS = (
    "-O2",
    "-std=gnu11",
    "-fno-fast-math",  # should CC ask for it: what diverged must be seen
    "-fno-unsafe-math-optimizations",  # by which GCC rounds subnormal numbers to 0, everywhere
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=default",
    "-fPIC",
    "-shared",
)
_THIS_PROCESSOR = ("-march=native", "-mcpu=native")  # the first on x86, either elsewhere
FOLDER_VARIABLE = "OPTUNA_ESGD_CACHE"
_SECONDS = 120.0

_libraries: dict[str, ctypes.CDLL | str] = {}
_turn = threading.Lock()


@dataclass(frozen=True)
class Compiler:
    """A C compiler.

    Attributes:
        command: How it is called.
        macros: What it defines beforehand: its version, and the instructions of this processor.
    """

    command: tuple[str, ...]
    macros: frozenset[str]

    @property
    def has(self) -> frozenset[str]:
        """The names of ``macros``."""
        return frozenset(line.split(" ", 2)[1] for line in self.macros)


def find_compiler() -> Compiler | str:
    """The one that ``CC`` names, or a usual one; or why there is none."""
    return _find_compiler(os.environ.get("CC", ""), os.environ.get("PATH", ""))


@functools.cache
def _find_compiler(named: str, path: str) -> Compiler | str:
    del path  # another one may lead to another compiler
    if os.name != "posix":
        return f"there are no kernels in C on this system ({os.name})"
    try:
        candidates = [shlex.split(named)] if named else [["cc"], ["gcc"], ["clang"]]
    except ValueError as error:
        return f"CC={named!r} is no command ({error})"
    found = [one for one in candidates if one and shutil.which(one[0])]
    if not found:
        return f"there is no C compiler ({' or '.join(one[0] for one in candidates if one)})"
    reason = ""
    for this_processor in _THIS_PROCESSOR:
        command = (*found[0], this_processor, *_FLAGS)
        try:
            done = subprocess.run(  # noqa: S603  (a compiler that the user has, or names)
                [*command, "-dM", "-E", "-x", "c", os.devnull],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{found[0][0]} does not run ({type(error).__name__})"
        if done.returncode == 0:
            lines = (line for line in done.stdout.splitlines() if line.startswith("#define "))
            return Compiler(command, frozenset(lines))
        reason = reason or f"{found[0][0]} refuses: {_last_line(done.stderr)}"
    return reason


def load_library(compiler: Compiler, source: str, *flags: str) -> ctypes.CDLL | str:
    """Compile a program, or find that this was done before; or say why it cannot be done.

    Args:
        compiler: With what.
        source: The program.
        *flags: Go after the usual ones.
    """
    compiler = replace(compiler, command=(*compiler.command, *flags))
    key = _digest(compiler, source)
    with _turn:
        if key not in _libraries:
            _libraries[key] = _load(compiler, source, key)
        return _libraries[key]


def _load(compiler: Compiler, source: str, key: str) -> ctypes.CDLL | str:
    try:
        folder = _folder()
        target = folder / f"{key}.so"
        if target.exists():
            with contextlib.suppress(OSError):  # cut off, or of another system: compiled anew
                return ctypes.CDLL(str(target))
        started = time.perf_counter()
        reason = _compile(compiler, source, target)
        if reason is None:
            seconds = time.perf_counter() - started
            _logger.info("Compiled %s in %.1f s, kept in %s.", target.name, seconds, folder)
        return ctypes.CDLL(str(target)) if reason is None else reason
    except OSError as error:
        return f"its library cannot be kept or loaded ({error})"


def _compile(compiler: Compiler, source: str, target: Path) -> str | None:
    """Under another name first: whoever looks finds a whole library, or none."""
    handle, name = tempfile.mkstemp(".tmp", f"{target.stem}-", target.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        done = subprocess.run(  # noqa: S603  (as above)
            [*compiler.command, "-x", "c", "-", "-o", name, "-lm"],
            input=source,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            return f"the C compiler refuses it: {_last_line(done.stderr)}"
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # so that the name never stands for less, whatever happens
        unfinished.replace(target)
    except subprocess.TimeoutExpired:
        return f"the C compiler has taken more than {_SECONDS:.0f} seconds"
    finally:
        unfinished.unlink(missing_ok=True)
    return None


def _folder() -> Path:
    """Where libraries are kept: nobody else may write there, since they are run."""
    given = os.environ.get(FOLDER_VARIABLE)
    with contextlib.suppress(OSError, RuntimeError):  # such as of a user without a home
        if given:
            folder = Path(given).expanduser()
        else:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            folder /= "optuna_esgd"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()  # so that a link is not led elsewhere once it is checked
        found = folder.stat()
        is_mine = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_mine and os.access(folder, os.W_OK):
            return folder
    if not Path(_own_folder().name).exists():  # a forked child has ended, and cleared up
        _own_folder.cache_clear()
    return Path(_own_folder().name)


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """Of this process only, where there is no other."""
    return tempfile.TemporaryDirectory(prefix="optuna_esgd-", ignore_cleanup_errors=True)


def _digest(compiler: Compiler, source: str) -> str:
    digest = hashlib.sha256()
    for part in (*compiler.command, *sorted(compiler.macros), source):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:40]


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if "error" in line] or text.splitlines()
    return lines[0].strip() if lines else "no message"
