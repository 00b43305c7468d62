"""Every failure that a caller can meet, over a real socket: status, details, and what happens to the others."""

import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service import image
from service.client import Client
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests import http2
from tests.conftest import Channel, Lines, StartServer
from tests.fakes import WAIT, Batch, HeldSession, uniform, until_waiting
from tests.onnx_models import pictures, write_model

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
PICTURE = image.encode_png(pictures(1)[0])
CODE = grpc.StatusCode


def request(*encoded: bytes, model: str = "", version: str = "") -> bytes:
    """Return the bytes of a ClassifyRequest."""
    images = [pb.Image(encoded=data) for data in encoded]
    return pb.ClassifyRequest(model=model, version=version, images=images).SerializeToString()


def raw_method(channel: grpc.Channel, path: str = CLASSIFY) -> Any:  # noqa: ANN401 - grpc's own type is not generic
    """Return a unary method that takes and gives bytes."""
    return channel.unary_unary(path, request_serializer=None, response_deserializer=None)


def send(channel: grpc.Channel, raw: bytes, timeout: float | None = WAIT) -> bytes:
    """Send bytes to Classify and return the bytes of the answer."""
    answer: bytes = raw_method(channel)(raw, timeout=timeout)
    return answer


def failure(channel: grpc.Channel, raw: bytes, timeout: float | None = WAIT) -> grpc.RpcError:
    """Send bytes to Classify that must fail and return the failure."""
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, raw, timeout)
    return caught.value


def violation(error: grpc.RpcError) -> error_details_pb2.BadRequest.FieldViolation:
    """Return the field violation in the google.rpc details of a failure."""
    bad = error_details_pb2.BadRequest()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    assert status.details[0].Unpack(bad)
    return bad.field_violations[0]


def trailing(error: grpc.RpcError) -> dict[str, str | bytes]:
    """Return the trailing metadata of a failure."""
    return dict(error.trailing_metadata())  # type: ignore[arg-type]


def until_counted(server: Server, calls: int) -> dict[str, float]:
    """Return how many calls of Classify were counted of each status, as soon as there are so many."""
    pause, until = threading.Event(), time.monotonic() + WAIT
    counts: dict[str, float] = {}
    while time.monotonic() < until:
        counts = {
            sample.labels["code"]: sample.value
            for metric in server.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "saccade_requests_total" and sample.labels["method"] == "Classify"
        }
        if sum(counts.values()) >= calls:
            return counts
        pause.wait(0.005)
    raise AssertionError(f"{calls} calls were never counted: {counts}")


@pytest.fixture
def answers(start_server: StartServer, channel: Channel, repository: Path) -> Iterator[grpc.Channel]:
    """Return a channel to a working server; afterwards the server must still answer."""
    opened = channel(start_server(repository))
    yield opened
    reply = pb.ClassifyResponse.FromString(send(opened, request(PICTURE)))
    assert reply.model == "linear"


def test_garbage_message(answers: grpc.Channel) -> None:
    """Bytes that are no message are INVALID_ARGUMENT with the field `request`."""
    error = failure(answers, b"\xff" * 20)
    assert error.code() is CODE.INVALID_ARGUMENT
    assert violation(error).field == "request"
    assert "20 bytes" in violation(error).description


def test_garbage_picture(answers: grpc.Channel) -> None:
    """A picture that cannot be decoded is INVALID_ARGUMENT naming its place; good ones beside it do not save it."""
    error = failure(answers, request(PICTURE, PICTURE, b"no picture"))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert violation(error).field == "images[2]"
    assert "10 bytes" in violation(error).description


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.ClassifyRequest(), "images"),
        (pb.ClassifyRequest(images=[pb.Image()]), "images[0]"),
        (pb.ClassifyRequest(images=[pb.Image(encoded=b"")]), "images[0]"),
        (
            pb.ClassifyRequest(images=[pb.Image(pixels=pb.Pixels(height=2, width=2, channels=2))]),
            "images[0].pixels.channels",
        ),
        (
            pb.ClassifyRequest(images=[pb.Image(pixels=pb.Pixels(height=2, width=2, channels=1))]),
            "images[0].pixels.data",
        ),
        (pb.ClassifyRequest(version="one", images=[pb.Image(encoded=PICTURE)]), "version"),
    ],
)
def test_wrong_fields(answers: grpc.Channel, message: pb.ClassifyRequest, field: str) -> None:
    """A wrong field is INVALID_ARGUMENT and is named."""
    error = failure(answers, message.SerializeToString())
    assert error.code() is CODE.INVALID_ARGUMENT
    assert violation(error).field == field


def test_too_many_pixels(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A picture beyond --max-pixels is INVALID_ARGUMENT naming its pixels and the limit."""
    big = image.encode_png(np.zeros((20, 30), np.uint8))
    error = failure(channel(start_server(repository, max_pixels=100)), request(big))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert "600 pixels; the limit is 100" in violation(error).description


def test_unknown_model(answers: grpc.Channel) -> None:
    """An unknown model is NOT_FOUND naming those there are."""
    error = failure(answers, request(PICTURE, model="nobody"))
    assert error.code() is CODE.NOT_FOUND
    assert "linear" in (error.details() or "")


def test_unknown_version(answers: grpc.Channel) -> None:
    """An unknown version is NOT_FOUND naming those there are."""
    error = failure(answers, request(PICTURE, version="7"))
    assert error.code() is CODE.NOT_FOUND
    assert "there are: 1" in (error.details() or "")


def test_no_model_named(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Naming no model where several are served and none is the default is INVALID_ARGUMENT naming them."""
    write_model(repository / "other" / "1")
    error = failure(channel(start_server(repository)), request(PICTURE))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert violation(error).field == "model"
    assert "linear, other" in violation(error).description


def test_failed_version(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A version that failed its self-test is UNAVAILABLE with the reason; the version below it is served."""
    write_model(repository / "linear" / "2", wrong_by=0.1)
    opened = channel(start_server(repository))
    assert pb.ClassifyResponse.FromString(send(opened, request(PICTURE))).version == "1"
    error = failure(opened, request(PICTURE, version="2"))
    assert error.code() is CODE.UNAVAILABLE
    assert "self-test" in (error.details() or "")


def test_message_over_the_cap(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A message over --max-message-mb is RESOURCE_EXHAUSTED, and the server goes on."""
    opened = channel(start_server(repository, max_message_mb=1))
    assert failure(opened, request(b"x" * (2 << 20))).code() is CODE.RESOURCE_EXHAUSTED
    assert send(opened, request(PICTURE))


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], bytes]], "Future[bytes]"]]:
    """Return what makes calls beside the test's own."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


def test_full_queue(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    held: HeldSession,
    background: Callable[..., "Future[bytes]"],
) -> None:
    """A full queue is RESOURCE_EXHAUSTED with RetryInfo and the same push-back; those in the queue are answered."""
    server = start_server(repository, load=held.load(queue_size=2, seconds=0.05))
    opened = channel(server)
    calls = [background(send, opened, request(PICTURE))]
    assert held.began.acquire(timeout=WAIT)
    calls += [background(send, opened, request(PICTURE)) for _ in range(2)]
    until_waiting(server, 2)
    error = failure(opened, request(PICTURE))
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert "the limit is 2" in (error.details() or "")
    retry = error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    assert status.details[0].Unpack(retry)
    pushback = int(trailing(error)["grpc-retry-pushback-ms"])
    assert 100 <= pushback <= 200
    assert abs(retry.retry_delay.ToMilliseconds() - pushback) <= 1
    held.gate.set()
    assert all(call.result(WAIT) for call in calls)
    sample = server.metrics.registry.get_sample_value
    assert sample("saccade_refused_total", {"model": "linear", "reason": "queue_full"}) == 1


def test_deadline_out_of_reach(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    held: HeldSession,
) -> None:
    """A deadline that cannot be met is RESOURCE_EXHAUSTED with push-back -1, before anything is computed."""
    opened = channel(start_server(repository, load=held.load(seconds=5.0)))
    error = failure(opened, request(PICTURE), timeout=2.0)
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert "the deadline leaves" in (error.details() or "")
    assert trailing(error)["grpc-retry-pushback-ms"] == "-1"
    assert held.pictures == 0


def test_deadline_passes_in_the_queue(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    held: HeldSession,
    background: Callable[..., "Future[bytes]"],
) -> None:
    """A call whose deadline passes while it waits is DEADLINE_EXCEEDED and is never computed."""
    server = start_server(repository, load=held.load())
    opened = channel(server)
    first = background(send, opened, request(PICTURE))
    assert held.began.acquire(timeout=WAIT)
    assert failure(opened, request(PICTURE), timeout=0.2).code() is CODE.DEADLINE_EXCEEDED
    until_waiting(server, 0)
    held.gate.set()
    assert first.result(WAIT)
    send(opened, request(PICTURE))
    assert held.pictures == 2


def test_cancelled_in_the_queue(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    held: HeldSession,
    background: Callable[..., "Future[bytes]"],
) -> None:
    """A call that its caller cancels leaves the queue at once, is counted CANCELLED, and is never computed."""
    server = start_server(repository, load=held.load())
    opened = channel(server)
    first = background(send, opened, request(PICTURE))
    assert held.began.acquire(timeout=WAIT)
    second = raw_method(opened).future(request(PICTURE))
    until_waiting(server, 1)
    second.cancel()
    until_waiting(server, 0)
    held.gate.set()
    assert first.result(WAIT)
    send(opened, request(PICTURE))
    assert held.pictures == 2
    sample = server.metrics.registry.get_sample_value
    assert sample("saccade_requests_total", {"model": "linear", "method": "Classify", "code": "CANCELLED"}) == 1


def test_failed_batch(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    lines: Lines,
) -> None:
    """A batch that fails is INTERNAL with an id and nothing else; the log repeats the id; the next call is answered."""
    results = iter([ValueError("secret detail"), None])

    def answer(batch: Batch) -> npt.NDArray[np.float32]:
        error = next(results)
        if error is not None:
            raise error
        return uniform(batch)

    session = HeldSession(answer)
    session.gate.set()
    opened = channel(start_server(repository, load=session.load()))
    error = failure(opened, request(PICTURE))
    assert error.code() is CODE.INTERNAL
    words = (error.details() or "").split()
    assert words[:2] == ["internal", "error"]
    assert len(words) == 3
    assert send(opened, request(PICTURE))
    [line] = [line for line in lines() if line["event"] == "internal error"]
    assert line["incident"] == words[2]
    assert "secret detail" in line["stack"]


def test_too_many_calls(start_server: StartServer, channel: Channel, repository: Path, held: HeldSession) -> None:
    """With as many calls under way as queue and instance hold, others are refused; health and ListModels answer."""
    server = start_server(repository, load=held.load(queue_size=2), queue_size=2, max_batch_size=1)
    opened = channel(server)
    under_way = [raw_method(opened, CLASSIFY).future(request(PICTURE))]
    assert held.began.acquire(timeout=WAIT)
    under_way += [raw_method(opened, CLASSIFY).future(request(PICTURE)) for _ in range(2)]
    until_waiting(server, 2)
    error = failure(opened, request(PICTURE))
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert "as many calls are under way as the queues hold" in (error.details() or "")
    assert int(trailing(error)["grpc-retry-pushback-ms"]) > 0
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.ready(timeout=WAIT)
        assert [entry.name for entry in client.models()] == ["linear"]
    held.gate.set()
    for call in under_way:
        assert call.result(WAIT)


def test_silent_callers_hold_nothing(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Callers that never send their message, however many, keep nobody else from being answered."""
    server = start_server(repository, queue_size=2, max_batch_size=1)
    opened = channel(server)
    silent = threading.Event()

    def never() -> Iterator[bytes]:
        silent.wait(WAIT)
        yield from ()

    sends_nothing: Any = opened.stream_unary(CLASSIFY, request_serializer=None, response_deserializer=None)
    stuck = [sends_nothing.future(never()) for _ in range(8)]
    assert send(opened, request(PICTURE))
    silent.set()
    codes = {call.code() for call in stuck}
    assert codes == {CODE.INVALID_ARGUMENT}


def test_answers_that_nobody_takes(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Calls whose answers their caller does not take, its window shut, give up their places after --stream-idle."""
    server = start_server(repository, queue_size=2, max_batch_size=1, stream_idle=1.0)
    with http2.Connection(server.grpc_port) as hostile:
        hostile.send(http2.SETTINGS, struct.pack(">HI", 4, 0))  # the window of each call that comes
        for number in range(3):
            hostile.call(2 * number + 1, CLASSIFY.encode(), message=request(PICTURE))
            assert until_counted(server, number + 1) == {"OK": number + 1}
        other, until = channel(server), time.monotonic() + WAIT
        while time.monotonic() < until:
            try:
                assert send(other, request(PICTURE))
            except grpc.RpcError as refused:
                assert refused.code() is CODE.RESOURCE_EXHAUSTED
            else:
                return
    pytest.fail("the places were never given back")


def leaves(caller: http2.Connection) -> None:
    """Reset the call."""
    caller.send(http2.RESET, bytes(3) + b"\x08", stream=1)


def sends_none(caller: http2.Connection) -> None:
    """End without a message."""
    caller.send(http2.DATA, flags=http2.END_STREAM, stream=1)
    assert b"is missing" in caller.ended(1).payload


@pytest.mark.parametrize(
    ("then", "extra", "code"),
    [
        (leaves, [], "CANCELLED"),
        (sends_none, [], "INVALID_ARGUMENT"),
        (http2.Connection.ping, [(b"grpc-timeout", b"50m")], "DEADLINE_EXCEEDED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_message_is_counted(
    start_server: StartServer,
    repository: Path,
    then: Callable[[http2.Connection], None],
    extra: list[http2.Pair],
    code: str,
) -> None:
    """A call whose message never comes is counted once, by what became of it."""
    server = start_server(repository)
    with http2.Connection(server.grpc_port) as caller:
        caller.call(1, CLASSIFY.encode(), *extra)
        caller.ping()
        then(caller)
        counts = until_counted(server, 1)
    assert counts == {code: 1}


def test_unknown_method(answers: grpc.Channel) -> None:
    """A method that is not there is UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as caught:
        raw_method(answers, "/saccade.v1.ImageClassifier/Nothing")(b"", timeout=WAIT)
    assert caught.value.code() is CODE.UNIMPLEMENTED
