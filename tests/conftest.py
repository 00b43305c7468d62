"""Fixtures that every test may use."""

import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from service import logs
from service.client import Client
from service.config import load_settings
from service.metrics import Metrics
from service.server import Server
from service.switch import Load
from tests import triton as triton_client
from tests.fake_classifier import HeldAnswer
from tests.fakes import HeldLoad, HeldSession
from tests.onnx_models import write_model

# Servers of tests are on this machine: no proxy of the environment is to be asked for them, nor by child processes.
os.environ["no_proxy"] = "127.0.0.1,localhost,::1"

StartServer = Callable[..., Server]
Connect = Callable[..., Client]
Channel = Callable[[Server], grpc.Channel]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return the service's logger; what `setup` does to it is undone, and what other tests logged bounds nothing."""
    logs._bounded.clear()
    logs._sometimes.clear()
    logger = logging.getLogger("saccade")
    before = logger.handlers, logger.level, logger.propagate
    yield logger
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def lines(logger: logging.Logger) -> Lines:
    """Return what gives the log lines since it was asked last, as objects."""
    file = io.StringIO()
    logs.setup("json", file)

    def read() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in file.getvalue().splitlines()]
        file.seek(0)
        file.truncate()
        return found

    return read


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a model repository with one small, right model: linear, version 1."""
    root = tmp_path / "models"
    write_model(root / "linear" / "1")
    return root


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Return what starts a server on free ports of this machine; all are drained in the end."""
    servers = []

    def start(
        repository: Path, *, load: Load | None = None, metrics: Metrics | None = None, **settings: object
    ) -> Server:
        given = {"repository": repository, "host": "127.0.0.1", "grpc_port": 0, "metrics_port": 0, **settings}
        metrics = metrics or Metrics()
        if isinstance(load, HeldLoad):
            load.metrics = metrics
        server = Server(load_settings(**given), load=load, metrics=metrics)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.drain(delay=0, refuse=0)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return what makes a client of servers; all are closed in the end."""
    clients = []

    def make(*servers: Server, timeout: float = 10.0) -> Client:
        client = Client(*(f"127.0.0.1:{server.grpc_port}" for server in servers), timeout=timeout)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def triton() -> Iterator[triton_client.Connect]:
    """Return what makes a client of Triton's own for a server; all are ended in the end."""
    clients = []

    def make(server: Server) -> triton_client.TritonClient:
        clients.append(triton_client.TritonClient(f"127.0.0.1:{server.grpc_port}"))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    """Return what makes a bare gRPC channel to a server, for statuses as they are on the wire."""
    channels = []

    def make(server: Server) -> grpc.Channel:
        channels.append(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.enable_retries", 0)]))
        return channels[-1]

    yield make
    for opened in channels:
        opened.close()


@pytest.fixture
def held() -> Iterator[HeldSession]:
    """Return a session that the test holds; its gate is opened in the end, so that the server can drain."""
    session = HeldSession()
    yield session
    session.gate.set()


@pytest.fixture
def held_answer() -> Iterator[HeldAnswer]:
    """Return an answer of a fake server that the test holds; it is let go in the end."""
    held = HeldAnswer()
    yield held
    held.gate.set()
