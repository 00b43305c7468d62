"""Limits of each caller, over real sockets."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from service import image
from service.rpc.callers import host
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.conftest import Channel, StartServer
from tests.fakes import WAIT, HeldSession
from tests.onnx_models import pictures

CODE = grpc.StatusCode
ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
REQUEST = pb.ClassifyRequest(images=[pb.Image(encoded=image.encode_png(pictures(1)[0]))])
SERVICE = "/saccade.v1.ImageClassifier"


def begin(channel: grpc.Channel, token: str = "") -> "grpc.Future[pb.ClassifyResponse]":
    """Begin a Classify and return its future."""
    call = channel.unary_unary(
        f"{SERVICE}/Classify",
        request_serializer=pb.ClassifyRequest.SerializeToString,
        response_deserializer=pb.ClassifyResponse.FromString,
    )
    future: grpc.Future[pb.ClassifyResponse] = call.future(REQUEST, timeout=3 * WAIT, metadata=metadata(token))
    return future


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Return what carries a token, if there is one."""
    return (("authorization", f"Bearer {token}"),) if token else ()


@pytest.fixture
def start(start_server: StartServer, repository: Path, held: HeldSession, tmp_path: Path) -> Callable[..., Server]:
    """Return what starts a server whose calls the test holds, with two callers' tokens if they are asked for."""
    path = tmp_path / "tokens"
    path.write_text(f"alice:{ALICE}\nalice:{ALICE}-too\nbob:{BOB}\n")

    def start(*, tokens: bool, limit: int) -> Server:
        given = {"tokens_file": path} if tokens else {}
        return start_server(repository, load=held.load(queue_size=8), max_caller_calls=limit, **given)

    return start


def refused(server: Server) -> float:
    """Return how many calls were refused by this limit."""
    return server.metrics.registry.get_sample_value("saccade_refused_total", {"model": "", "reason": "caller"}) or 0.0


def test_each_token_has_a_limit(start: Callable[..., Server], channel: Channel, held: HeldSession) -> None:
    """Beyond the limit a caller is refused, whichever of its tokens it shows, and others are not."""
    server = start(tokens=True, limit=2)
    opened = channel(server)
    first = begin(opened, ALICE)
    assert held.began.acquire(timeout=WAIT)
    second = begin(opened, f"{ALICE}-too")
    third, others = begin(opened, ALICE), begin(opened, BOB)
    error = third.exception(WAIT)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert "2 calls of this caller are under way, the limit of each" in str(error.details())
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    assert status.details[0].Unpack(error_details_pb2.RetryInfo())
    trailing: Any = error.trailing_metadata()
    assert ("grpc-retry-pushback-ms", "100") in {tuple(pair) for pair in trailing}
    assert refused(server) == 1
    held.gate.set()
    assert {call.result(WAIT).model for call in (first, second, others)} == {"linear"}
    assert begin(opened, ALICE).result(WAIT).model == "linear"


def test_each_host_has_a_limit(start: Callable[..., Server], channel: Channel, held: HeldSession) -> None:
    """Without tokens a caller is its address: all its connections count together."""
    server = start(tokens=False, limit=1)
    first = begin(channel(server))
    assert held.began.acquire(timeout=WAIT)
    error = begin(channel(server)).exception(WAIT)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    held.gate.set()
    assert first.result(WAIT).model == "linear"


def test_who_leaves_no_longer_counts(start: Callable[..., Server], channel: Channel, held: HeldSession) -> None:
    """A call that its caller gave up makes room for the next."""
    server = start(tokens=True, limit=1)
    opened = channel(server)
    call = begin(opened, ALICE)
    assert held.began.acquire(timeout=WAIT)
    call.cancel()
    held.gate.set()
    pause = threading.Event()
    for _ in range(int(WAIT / 0.05)):
        if not begin(opened, ALICE).exception(WAIT):
            return
        pause.wait(0.05)
    raise AssertionError("the call that was given up still counts")


def test_health_is_never_refused(start: Callable[..., Server], channel: Channel, held: HeldSession) -> None:
    """Health answers whoever is at the limit."""
    opened: Any = channel(start(tokens=False, limit=1))
    first = begin(opened)
    assert held.began.acquire(timeout=WAIT)
    raw = opened.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=WAIT)
    assert health_pb2.HealthCheckResponse.FromString(raw).status == health_pb2.HealthCheckResponse.SERVING
    first.cancel()


def test_a_stream_counts_as_a_call(start: Callable[..., Server], channel: Channel, held: HeldSession) -> None:
    """An open stream takes one place, and no more of its messages than the limit are under way at once."""
    server = start(tokens=True, limit=2)
    opened: Any = channel(server)
    sent, over = [], threading.Event()

    def requests() -> Iterator[bytes]:
        for number in range(6):
            sent.append(number)
            yield REQUEST.SerializeToString()
        over.wait(WAIT)

    stream = opened.stream_stream(f"{SERVICE}/ClassifyStream")(requests(), timeout=3 * WAIT, metadata=metadata(ALICE))
    assert held.began.acquire(timeout=WAIT)
    call = begin(opened, ALICE)
    error = begin(opened, ALICE).exception(WAIT)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    waiting = server.metrics.registry.get_sample_value("saccade_queue_depth", {"model": "linear", "version": "1"})
    assert waiting is not None
    assert waiting <= 2  # one of the stream's two, and the call; the other one runs
    held.gate.set()
    answers = [pb.ClassifyStreamResponse.FromString(next(stream)) for _ in range(6)]
    assert all(answer.HasField("response") for answer in answers)
    over.set()
    assert next(stream, None) is None
    assert call.result(WAIT).model == "linear"


@pytest.mark.parametrize(
    ("peer", "expected"),
    [("ipv4:10.0.0.7:41234", "ipv4:10.0.0.7"), ("ipv6:%5B::1%5D:41234", "ipv6:%5B::1%5D"), ("unix:", "unix")],
)
def test_host(peer: str, expected: str) -> None:
    """A peer's port is not its host's."""
    assert host(peer) == expected
