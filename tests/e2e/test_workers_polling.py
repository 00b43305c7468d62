"""A repository that changes while several workers serve it: every one of them follows, and health tells the truth."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from service.client import Client
from tests.fakes import WAIT
from tests.onnx_models import pictures, write_model
from tests.processes import ServerProcess
from tests.rolling import Callers

CONNECTIONS = 8
"""That all of them meet the same one of two workers happens once in 128 times."""
FLAGS = ("--workers", "2", "--poll-seconds", "0.1", "--keep-versions", "1")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PICTURE = pictures(1)[0]
pytestmark = pytest.mark.timeout(300)  # processes that start and reload on a machine that may be busy


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Return a list for clients; all are closed in the end."""
    opened: list[Client] = []
    yield opened
    for client in opened:
        client.close()


def connect(server: ServerProcess, clients: list[Client]) -> None:
    """Open clients with a connection each."""
    clients += [Client(server.address) for _ in range(CONNECTIONS)]


def publish(repository: Path, version: int, *, name: str = "linear", wrong: bool = False) -> None:
    """Put a version there by rename, over the file of one that is there; wrong: it fails its self-test."""
    staging = write_model(repository / ".staging", wrong_by=0.1 if wrong else 0.0).parent
    target = repository / name / str(version)
    if target.exists():
        (staging / "model.onnx").rename(target / "model.onnx")
    else:
        target.parent.mkdir(exist_ok=True)
        staging.rename(target)


def both(server: ServerProcess, event: str) -> None:
    """Return when both workers have logged an event."""
    heard: set[int] = set()
    while len(heard) < 2:
        heard.add(server.wait_for(event)["worker"])


def states(client: Client) -> dict[str, str]:
    """Return the state of each version that the worker of a connection knows."""
    return {f"{entry.name}/{entry.version}": entry.state for entry in client.models()}


def test_changes_reach_every_worker(repository: Path, clients: list[Client]) -> None:
    """What is published, fails and is removed is so in every worker, and no call fails meanwhile."""
    with ServerProcess(repository, *FLAGS) as server:
        connect(server, clients)
        callers = Callers(lambda: clients[0].classify(PICTURE, model="linear"), 4)
        publish(repository, 2)
        both(server, "model ready")
        assert {client.classify(PICTURE).version for client in clients} == {"2"}
        publish(repository, 3, wrong=True)
        both(server, "model failed")
        assert all(states(client) == {"linear/2": "READY", "linear/3": "FAILED"} for client in clients)
        publish(repository, 1, name="other")
        both(server, "model ready")
        assert all(client.ready("other") for client in clients)
        shutil.rmtree(repository / "other")
        both(server, "model removed")
        assert not any(client.ready("other") for client in clients)
        assert all(client.ready(timeout=WAIT) for client in clients)
        assert not callers.stop().failed


def test_a_worker_that_cannot_load_what_the_others_serve(repository: Path, clients: list[Client]) -> None:
    """A worker that takes the place of one that crashed takes no calls while what is on disk fails; when that is mended
    it does. The other one serves what it had loaded, and no call fails.
    """
    with ServerProcess(repository, *FLAGS) as server:
        connect(server, clients)
        callers = Callers(lambda: clients[0].classify(PICTURE), 4)
        publish(repository, 1, wrong=True)
        both(server, "model failed")
        callers.wait_for(20)
        psutil.Process(server.process.pid).children()[0].kill()
        server.wait_for("worker ended")
        server.wait_for("model failed")
        assert all(client.ready(timeout=WAIT) and states(client) == {"linear/1": "READY"} for client in clients)
        publish(repository, 1)
        server.wait_for("worker listening")
        callers.wait_for(20)
        assert not callers.stop().failed


def watch(address: str, service: str) -> Iterator[health_pb2.HealthCheckResponse]:
    """Watch a service over a connection of its own."""
    method = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]).unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    request = health_pb2.HealthCheckRequest(service=service)
    answers: Iterator[health_pb2.HealthCheckResponse] = iter(method(request, timeout=WAIT))
    return answers


def rest(answers: Iterator[health_pb2.HealthCheckResponse]) -> list[int]:
    """Return the statuses of a Watch until the server ends it."""
    statuses: list[int] = []
    with contextlib.suppress(grpc.RpcError):
        statuses.extend(answer.status for answer in answers)
    return statuses


def test_health_while_versions_are_replaced(repository: Path) -> None:
    """With `--reload replace` a worker says NOT_SERVING of a model while it has none, and of nothing else; callers'
    calls are repeated, and answered.
    """
    publish(repository, 1, name="other")
    with ServerProcess(repository, *FLAGS, "--reload", "replace") as server:
        replaced = [watch(server.address, "linear") for _ in range(CONNECTIONS)]
        others = [watch(server.address, service) for service in ("", "other") for _ in range(CONNECTIONS)]
        assert all(next(answers).status == SERVING for answers in (*replaced, *others))
        with Client(server.address, connections=CONNECTIONS) as client:
            callers = Callers(lambda: client.classify(PICTURE, model="linear"), 4)
            publish(repository, 2)
            assert all([next(answers).status for _ in range(2)] == [NOT_SERVING, SERVING] for answers in replaced)
            assert not callers.stop().failed
        server.terminate()
        assert all(rest(answers) == [NOT_SERVING] for answers in others), "they heard more than the end"
