"""Sharing out the nodes of a cluster."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.errors import ConfigurationError, StorageError
from optuna_esgd.worker.cluster import (
    Node,
    Request,
    Share,
    count_room,
    reachable_by_all,
    share_out,
)

NODES = st.lists(
    st.builds(Node, machine=st.just("m"), n_cpus=st.integers(0, 64), n_gpus=st.integers(0, 8)),
    max_size=5,
)
GPUS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0, 2.0])


def node(n_cpus: int, n_gpus: int = 0) -> Node:
    return Node(machine="m", n_cpus=n_cpus, n_gpus=n_gpus)


@pytest.mark.parametrize(
    ("nodes", "request_", "device", "expected"),
    [
        ([node(4), node(2)], Request(), None, (6, 1, 0)),  # one on each core
        ([node(4, 1), node(16, 4)], Request(), None, (5, 4, 1)),  # one on each GPU
        ([node(2, 4)], Request(), None, (2, 1, 1)),  # GPUs without cores are of no use
        ([node(0), node(8, 2)], Request(), None, (2, 4, 1)),  # a head that is not to work
        ([node(4, 1), node(16, 4)], Request(), "cpu", (8, 2, 0)),
        ([node(4, 1), node(16, 4)], Request(gpus_each=0.5), None, (8, 2, 0.5)),
        ([node(4, 1), node(16, 4)], Request(gpus_each=2), None, (2, 8, 2)),
        ([node(8)], Request(cpus_each=3), None, (2, 3, 0)),
        ([node(6), node(6)], Request(n_workers=3), None, (3, 3, 0)),
        ([node(2), node(2), node(2)], Request(n_workers=1), None, (1, 2, 0)),  # none spans two
        ([node(2)], Request(n_workers=5), None, (5, 1, 0)),  # some will have to wait
        ([], Request(n_workers=2, gpus_each=1), None, (2, 1, 1)),  # nodes come on demand
    ],
)
def test_shares(
    nodes: list[Node], request_: Request, device: str | None, expected: tuple[int, int, float]
) -> None:
    n_workers, cpus_each, gpus_each = expected
    share = share_out(nodes, request_, device=device, most=8)
    assert share == Share(n_workers=n_workers, cpus_each=cpus_each, gpus_each=gpus_each)


@given(nodes=NODES, gpus_each=GPUS, most=st.integers(1, 100))
def test_what_is_shared_out_fits_and_is_all_that_can_be(
    nodes: list[Node], gpus_each: float, most: int
) -> None:
    room = count_room(nodes, 1, gpus_each)
    if room == 0:
        with pytest.raises(ConfigurationError, match="No node has room"):
            share_out(nodes, Request(gpus_each=gpus_each), device=None, most=most)
        return
    share = share_out(nodes, Request(gpus_each=gpus_each), device=None, most=most)
    assert share.n_workers == min(room, most)
    assert count_room(nodes, share.cpus_each, gpus_each) >= share.n_workers
    assert count_room(nodes, share.cpus_each + 1, gpus_each) < share.n_workers
    assert share.n_workers * gpus_each <= sum(one.n_gpus for one in nodes) + 1e-6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_workers": 0}, "at least 1 worker, got 0"),
        ({"cpus_each": 0}, "at least 1 core, got 0"),
        ({"gpus_each": 1.5}, "a whole number, got 1.5"),
        ({"gpus_each": -0.5}, "a whole number, got -0.5"),
        ({"gpus_each": float("nan")}, "a whole number, got nan"),
        ({"gpus_each": float("inf")}, "a whole number, got inf"),
    ],
)
def test_requests_out_of_range(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Request(**wrong)


def test_files_are_for_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = socket.gethostname()
    whole = f"sqlite:///{tmp_path}/esgd.db"
    assert reachable_by_all("sqlite:///esgd.db", [here]) == whole
    assert reachable_by_all(whole, [here]) == whole
    for machines in (["elsewhere"], [here, "elsewhere"]):
        with pytest.raises(ConfigurationError, match=r"elsewhere.*postgresql://"):
            reachable_by_all(whole, machines)
    with pytest.raises(StorageError, match="memory"):
        reachable_by_all("sqlite://", [here])


def test_servers_are_for_all() -> None:
    url = "postgresql://user:secret@host/x"
    assert reachable_by_all(url, ["here", "there"]) == url
