"""Workers, devices and threads."""

from __future__ import annotations

import pytest

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.worker import devices
from optuna_esgd.worker.devices import environment, share_out


@pytest.mark.parametrize(
    ("n_workers", "device", "n_gpus", "expected"),
    [
        (None, None, 0, ["cpu"] * 3),
        (None, None, 2, ["cuda:0", "cuda:1"]),
        (None, None, 9, [f"cuda:{number}" for number in range(5)]),
        (3, None, 2, ["cuda:0", "cuda:1", "cuda:0"]),
        (2, "cuda:1", 4, ["cuda:1"] * 2),
        (None, "cpu", 4, ["cpu"] * 3),
        (8, None, 0, ["cpu"] * 8),
    ],
)
def test_devices_are_shared_out(
    monkeypatch: pytest.MonkeyPatch,
    n_workers: int | None,
    device: str | None,
    n_gpus: int,
    expected: list[str],
) -> None:
    monkeypatch.setattr(devices, "n_cores", lambda: 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
    assert share_out(n_workers, device=device, most=5) == expected


def test_no_worker_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        share_out(0, device=None, most=4)


def test_threads_are_shared_out_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "n_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(3)["OMP_NUM_THREADS"] == "2"
    assert environment(20)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(3)["OMP_NUM_THREADS"] == "7"
