"""The load generator against a real server."""

from pathlib import Path

import pytest

from service.load.closed_loop import Load, run
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.conftest import StartServer

METHOD = "/saccade.v1.ImageClassifier/Classify"
REQUEST = pb.ClassifyRequest(
    images=[pb.Image(pixels=pb.Pixels(height=8, width=8, channels=1, data=bytes(64)))]
).SerializeToString()


def counted(server: Server, method: str, code: str) -> float:
    """Return how many calls the server counted."""
    labels = {"model": "linear", "method": method, "code": code}
    return server.metrics.registry.get_sample_value("saccade_requests_total", labels) or 0.0


@pytest.mark.parametrize(("kind", "method"), [("unary", "Classify"), ("stream", "ClassifyStream")])
def test_answers_are_counted(start_server: StartServer, repository: Path, kind: str, method: str) -> None:
    """A load of calls or of messages counts answers that the server counted too, each with its latency."""
    server: Server = start_server(repository)
    path = f"/saccade.v1.ImageClassifier/{method}"
    load = Load(f"127.0.0.1:{server.grpc_port}", path, REQUEST, 4, 0.5, 0.1, kind=kind)  # type: ignore[arg-type]
    outcome = run(load)
    assert not outcome.failed
    assert 0 < outcome.answered <= counted(server, method, "OK")
    assert outcome.latencies.get_total_count() == outcome.answered
    assert 0 < outcome.milliseconds(50) <= outcome.milliseconds(99) <= 1000 * outcome.seconds


def test_failures_are_counted_by_status(start_server: StartServer, repository: Path) -> None:
    """Calls that fail are counted by their status, and not as answers."""
    server: Server = start_server(repository)
    bad = pb.ClassifyRequest(model="nobody").SerializeToString()
    outcome = run(Load(f"127.0.0.1:{server.grpc_port}", METHOD, bad, 2, 0.3, 0.1))
    assert outcome.answered == 0
    assert set(outcome.failed) == {"NOT_FOUND"}
