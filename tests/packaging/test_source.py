"""Rules about the source itself that no linter here knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "optuna_esgd").rglob("*.py"))
TEXT = {"", ".cfg", ".html", ".ini", ".json", ".mako", ".md", ".py", ".sql", ".toml", ".txt"} | {
    ".css",
    ".js",
    ".svg",
    ".yaml",
    ".yml",
}
# Written in two halves: this file is one of those that are searched.
REGISTRIES = re.compile(
    "|".join(
        (
            r"py" + r"pi\.org",
            r"python" + r"hosted\.org",
            r"download\.py" + r"torch\.org",
            r"anaconda" + r"\.(?:org|com)",
            r"docker" + r"\.(?:io|com)",
            r"ghcr" + r"\.io",
            r"quay" + r"\.io",
            r"npmjs" + r"\.(?:org|com)",
            r"arti" + r"factory",
            r"https?://[^\s/]+/simple" + r"\b",
            r"index" + r"-url[ =]\S+",
        )
    )
)


def project_files() -> list[Path]:
    """The text files of the project: what git would keep, or all where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        hidden = {".git", "__pycache__", "build", "dist", "demo"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if hidden.isdisjoint(parts := path.relative_to(ROOT).parts)
            and not parts[0].endswith(("_cache", "venv"))
        ]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def test_no_file_names_a_registry() -> None:
    """Where packages come from is the business of whoever installs, not of the project."""
    files = project_files()
    assert ROOT / "pyproject.toml" in files
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files
        for match in REGISTRIES.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "https://py" + "pi.org/simple",
        "--extra-index" + "-url https://somewhere/else",
        "FROM ghcr" + ".io/x",
    ],
)
def test_a_registry_would_be_found(line: str) -> None:
    assert REGISTRIES.search(line)


def test_constraints_pin_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    for line in pinned:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line), line
    names = [line.split("==")[0] for line in pinned]
    assert names == sorted(set(names))
    assert "torch==2.13.0" in pinned


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = dict(line.split("==") for line in lines if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in map(Requirement, named):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), requirement


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


# What turns bytes into behaviour.
DANGEROUS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path: Path) -> None:
    # The exported script writes weights as PyTorch users do; nothing of ours reads them.
    allowed = {"torch.save"} if path.name == "plain_training.py" else set()
    assert dangers(path.read_text(encoding="utf-8")) == allowed


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "x = eval(y)",
        "torch.load(f)",
        "import os.pickle",
    ],
)
def test_what_can_run_would_be_found(line: str) -> None:
    assert dangers(f"def f():\n    {line}")


def dangers(source: str) -> set[str]:
    """Modules and calls that could run what comes out of a database."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {part for name in node.names for part in name.name.split(".")} & DANGEROUS
        elif isinstance(node, ast.ImportFrom):
            found |= set((node.module or "").split(".")) & DANGEROUS
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & DANGEROUS_CALLS
    return found


def loaded_by(*modules: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these."""
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(completed.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_by("optuna_esgd")
    assert "optuna_esgd" in loaded
    assert loaded.isdisjoint({"torch", "sqlalchemy", "alembic", "plotly", "ray"})


def test_the_pure_core_loads_numpy_only() -> None:
    loaded = loaded_by("optuna_esgd.engine.decide", "optuna_esgd.engine.explore")
    assert "numpy" in loaded
    assert loaded.isdisjoint({"torch", "sqlalchemy", "alembic", "plotly", "optuna"})


def test_layers_point_down() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "0 broken" in linted.stdout
