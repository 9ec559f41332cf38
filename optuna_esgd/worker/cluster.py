"""How many workers a cluster has room for, what each gets, and where their database may be."""

from __future__ import annotations

import math
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.store.engines import parse_url, sqlite_path

_ROUNDING = 1e-9  # three thirds are one


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one node of a cluster has.

    Attributes:
        machine: Its host name.
        n_cpus: Cores.
        n_gpus: GPUs.
    """

    machine: str
    n_cpus: int
    n_gpus: int = 0

    def room(self, cpus_each: int, gpus_each: float) -> int:
        """How many workers fit on it; none of them spans two nodes, nor a part of one two GPUs."""
        n_workers = self.n_cpus // cpus_each
        if gpus_each >= 1:
            return min(n_workers, self.n_gpus // int(gpus_each))
        if gpus_each > 0:
            return min(n_workers, self.n_gpus * math.floor(1 / gpus_each + _ROUNDING))
        return n_workers


@dataclass(frozen=True, kw_only=True)
class Share:
    """Workers of a run, and what each of them gets.

    Attributes:
        n_workers: How many.
        cpus_each: Cores of a worker.
        gpus_each: GPUs of a worker, or the part of one.
    """

    n_workers: int
    cpus_each: int
    gpus_each: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a cluster; the attributes are a share's, None where it is left open.

    Raises:
        ConfigurationError: Less than one worker or core, or neither a part of one GPU nor a
            whole number of them.
    """

    n_workers: int | None = None
    cpus_each: int | None = None
    gpus_each: float | None = None

    def __post_init__(self) -> None:
        if self.n_workers is not None and self.n_workers < 1:
            raise ConfigurationError(f"There must be at least 1 worker, got {self.n_workers}.")
        if self.cpus_each is not None and self.cpus_each < 1:
            raise ConfigurationError(f"A worker needs at least 1 core, got {self.cpus_each}.")
        gpus = self.gpus_each
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus % 1 == 0)):
            raise ConfigurationError(
                "GPUs per worker must be a part of one, such as 0.5, or a whole number, "
                f"got {gpus:g}."
            )


def share_out(nodes: Sequence[Node], request: Request, *, device: str | None, most: int) -> Share:
    """What is left open: as many workers as there is room for, and the cores among them.

    Workers get one GPU each where the cluster has any.

    Args:
        nodes: Of the cluster.
        request: What is asked for.
        device: The CPU, if no GPU is wanted.
        most: Where the number of workers is left open, not more than these.

    Raises:
        ConfigurationError: There is room for none, and their number is left open.
    """
    gpus_each = request.gpus_each
    if gpus_each is None:
        gpus_each = 1.0 if device != "cpu" and any(node.n_gpus for node in nodes) else 0.0
    n_workers = request.n_workers
    if n_workers is None:
        n_workers = min(most, count_room(nodes, request.cpus_each or 1, gpus_each))
    if n_workers == 0:
        raise ConfigurationError(
            f"No node has room for a worker with {request.cpus_each or 1} cores and "
            f"{gpus_each:g} GPUs; the largest of {len(nodes)} has {_largest(nodes)} cores. Ask "
            "for less, or say how many workers (--workers) if nodes are added on demand."
        )
    cpus_each = request.cpus_each or _share_cores(nodes, n_workers, gpus_each)
    return Share(n_workers=n_workers, cpus_each=cpus_each, gpus_each=gpus_each)


def count_room(nodes: Sequence[Node], cpus_each: int, gpus_each: float) -> int:
    """How many workers fit on all nodes together."""
    return sum(node.room(cpus_each, gpus_each) for node in nodes)


def _share_cores(nodes: Sequence[Node], n_workers: int, gpus_each: float) -> int:
    """As many for each as leave room for all; 1 where there is not even that."""
    for n_cpus in range(_largest(nodes), 1, -1):
        if count_room(nodes, n_cpus, gpus_each) >= n_workers:
            return n_cpus
    return 1


def _largest(nodes: Sequence[Node]) -> int:
    return max((node.n_cpus for node in nodes), default=0)


def reachable_by_all(url: str, machines: Collection[str]) -> str:
    """The URL as any worker of the cluster may use it: files with their whole path.

    Args:
        url: Of a database.
        machines: Host names of the nodes.

    Raises:
        ConfigurationError: It is a file, and there are other machines than this one.
        StorageError: It is a database in memory, or of no supported kind.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return url
    path = sqlite_path(parsed)
    others = sorted(set(machines) - {socket.gethostname()})
    if others:
        raise ConfigurationError(
            f"{path} is a file on this machine, and the cluster has others ({others[0]}, ...): "
            "each would make its own. Use a server: postgresql:// or mysql://."
        )
    return sa.URL.create("sqlite", database=str(path)).render_as_string()
