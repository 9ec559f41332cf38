"""Optuna's gRPC proxy in a process of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.storages import GrpcStorageProxy, run_grpc_proxy_server

import optuna_esgd as esgd
from tests.faults.small_run import prepare
from tests.faults.workers import start


@contextmanager
def proxy(url: str) -> Iterator[int]:
    """The port of a proxy in front of a database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    server = start(serve, url, port)
    client = GrpcStorageProxy(host="127.0.0.1", port=port)
    client.wait_server_ready(timeout=60)
    client.close()
    try:
        yield port
    finally:
        server.kill()
        server.join()


def serve(url: str, port: int) -> None:
    """The only process that talks to Optuna's tables."""
    prepare()
    run_grpc_proxy_server(esgd.create_storage(url), host="127.0.0.1", port=port)
