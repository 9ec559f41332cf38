"""Libraries are compiled once, kept whole, and nobody else's are run."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optuna_esgd.native import compiler as module
from optuna_esgd.native.compiler import FOLDER_VARIABLE, Compiler, find_compiler, load_library
from tests.native.builds import needs_compiler

SOURCE = "int answer(void) { return 42; }"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries go, and nothing remembered of those before."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setattr(module, "_libraries", {})
    return tmp_path / "kept"


@pytest.fixture
def compiler() -> Compiler:
    found = find_compiler()
    assert not isinstance(found, str)
    return found


def answer(library: ctypes.CDLL | str) -> int:
    assert not isinstance(library, str), library
    return int(library.answer())


@needs_compiler
def test_what_was_compiled_is_kept_for_the_next_process(
    folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(load_library(compiler, SOURCE)) == 42
    [kept] = folder.iterdir()
    assert kept.suffix == ".so"
    monkeypatch.setattr(module, "_libraries", {})
    monkeypatch.setattr(module, "_compile", lambda *_: pytest.fail("compiled again"))
    assert answer(load_library(compiler, SOURCE)) == 42


@needs_compiler
def test_other_programs_and_compilers_have_libraries_of_their_own(
    folder: Path, compiler: Compiler
) -> None:
    other = Compiler(compiler.command, compiler.macros | {"#define __VERSION__ other"})
    for one, source in ((compiler, SOURCE), (other, SOURCE), (compiler, SOURCE + "\n")):
        load_library(one, source)
    assert len(list(folder.iterdir())) == 3


@needs_compiler
def test_flags_go_after_the_usual_ones(folder: Path, compiler: Compiler) -> None:
    source = "int answer(void) { return 40 + N; }"
    assert answer(load_library(compiler, source, "-DN=1", "-UN", "-DN=2")) == 42
    assert answer(load_library(compiler, source, "-DN=3")) == 43


@needs_compiler
def test_half_a_file_is_replaced(folder: Path, compiler: Compiler) -> None:
    folder.mkdir()
    kept = folder / f"{module._digest(compiler, SOURCE)}.so"
    kept.write_bytes(b"\x7fELF and no more")
    assert answer(load_library(compiler, SOURCE)) == 42
    assert kept.stat().st_size > 1000


@needs_compiler
def test_a_killed_compiler_leaves_nothing_under_the_name(
    folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        load_library(compiler, SOURCE)
    assert list(folder.iterdir()) == []


@needs_compiler
def test_processes_compile_at_the_same_time(folder: Path) -> None:
    script = (
        "from optuna_esgd.native.compiler import find_compiler, load_library\n"
        f"print(load_library(find_compiler(), {SOURCE!r}).answer())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in processes] == ["42"] * 3
    assert len(list(folder.iterdir())) == 1


@needs_compiler
def test_a_folder_that_others_write_to_is_not_used(folder: Path, compiler: Compiler) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    assert answer(load_library(compiler, SOURCE)) == 42
    assert list(folder.iterdir()) == []


@needs_compiler
def test_who_has_no_home_keeps_libraries_for_a_while(
    monkeypatch: pytest.MonkeyPatch, folder: Path, compiler: Compiler
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert answer(load_library(compiler, SOURCE)) == 42
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert answer(load_library(compiler, SOURCE + "\n")) == 42
    # A forked child clears up behind itself, and so behind this process.
    module._own_folder().cleanup()
    assert answer(load_library(compiler, SOURCE + "\n\n")) == 42


@needs_compiler
def test_what_cannot_be_compiled_is_a_reason(folder: Path, compiler: Compiler) -> None:
    found = load_library(compiler, "int answer(void) { return forty_two; }")
    assert isinstance(found, str)
    assert "forty_two" in found
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("no-such-compiler -O2", "no-such-compiler"),
        ("false", "false refuses"),
        ("gcc '", "is no command"),
    ],
)
def test_without_a_compiler_there_is_a_reason(
    named: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", named)
    found = find_compiler()
    assert isinstance(found, str)
    assert reason in found


def test_no_compiler_on_the_path_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    assert find_compiler() == "there is no C compiler (cc or gcc or clang)"
