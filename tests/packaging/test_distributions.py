"""What people install holds everything the package needs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution and the wheel built from it, without a network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return folder


@pytest.fixture(scope="module")
def in_wheel(distributions: Path) -> set[str]:
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def in_sdist(distributions: Path) -> set[str]:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        return {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}


def package_files() -> set[str]:
    """Every file of the package in this tree, compiled ones apart."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "optuna_esgd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def test_nothing_of_the_package_is_missing(in_wheel: set[str], in_sdist: set[str]) -> None:
    files = package_files()
    assert len(files) > 20
    assert files - in_wheel == set()
    assert files - in_sdist == set()


@pytest.mark.parametrize("kind", ["in_wheel", "in_sdist"])
def test_types_and_migrations_are_shipped(kind: str, request: pytest.FixtureRequest) -> None:
    names = request.getfixturevalue(kind)
    assert "optuna_esgd/py.typed" in names
    assert "optuna_esgd/store/migrations/env.py" in names
    versions = {name for name in names if "/migrations/versions/" in name and name[-3:] == ".py"}
    assert any(not name.endswith("/__init__.py") for name in versions), "no migration in it"


def test_the_wheel_holds_the_package_and_its_license_only(in_wheel: set[str]) -> None:
    folders = {name.split("/", 1)[0] for name in in_wheel}
    (metadata,) = (folder for folder in folders if folder.endswith(".dist-info"))
    assert folders == {"optuna_esgd", metadata}
    assert f"{metadata}/licenses/LICENSE" in in_wheel
    assert f"{metadata}/entry_points.txt" in in_wheel


@pytest.mark.parametrize(
    "name",
    ["README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml"],
)
def test_the_source_distribution_can_be_worked_with(in_sdist: set[str], name: str) -> None:
    assert name in in_sdist
    assert any(one.startswith("tests/engine/") for one in in_sdist)


def test_the_version_is_the_same_everywhere(distributions: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    program = "import optuna_esgd; print(optuna_esgd.__version__)"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == version
    assert [f"-{version}" in path.name for path in distributions.iterdir()] == [True, True]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
