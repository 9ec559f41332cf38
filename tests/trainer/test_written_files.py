"""Files are written whole or not at all, and what is in the way is said in words."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer import written_files
from optuna_esgd.trainer.written_files import write_whole


@pytest.fixture
def small_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_leaves_the_file_before(tmp_path: Path) -> None:
    target = write_whole(tmp_path / "a", [b"one"])
    with pytest.raises(ConfigurationError, match="a cannot be written: File too large"):
        write_whole(target, [b"two", b"2" * 2000])
    assert target.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_without_room_for_the_unfinished_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written: File name too long"):
        write_whole(tmp_path / ("a" * 250), [b"one"])


def test_a_closed_folder_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the system, since an administrator may write wherever there is a disk."""
    monkeypatch.setattr(written_files.os, "access", lambda _path, _mode: False)
    with pytest.raises(ConfigurationError, match=f"folder {tmp_path} cannot be written to"):
        written_files.checked_target(tmp_path / "a")
