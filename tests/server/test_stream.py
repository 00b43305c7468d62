"""ClassifyStream over a real socket."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.rpc.streams import WINDOW
from service.server import Server
from tests.conftest import Channel, StartServer
from tests.fakes import WAIT, HeldSession, until_waiting
from tests.onnx_models import pictures, probabilities, weights

CLASSIFY_STREAM = "/saccade.v1.ImageClassifier/ClassifyStream"


def message(number: int = 0, **fields: Any) -> pb.ClassifyRequest:  # noqa: ANN401 - protobuf's own types
    """Return a request with one picture of raw pixels; its id is its number."""
    picture = pictures(6)[number % 6]
    pixels = pb.Pixels(height=8, width=8, channels=1, data=picture.tobytes())
    return pb.ClassifyRequest(id=str(number), images=[pb.Image(pixels=pixels)], **fields)


class Stream:
    """An open stream: messages are sent one by one, answers come as they are ready."""

    def __init__(self, channel: grpc.Channel, timeout: float | None = WAIT) -> None:
        method: Any = channel.stream_stream(
            CLASSIFY_STREAM,
            request_serializer=pb.ClassifyRequest.SerializeToString,
            response_deserializer=pb.ClassifyStreamResponse.FromString,
        )
        self._outbox: queue.SimpleQueue[pb.ClassifyRequest | None] = queue.SimpleQueue()
        self.sent = 0
        self.call = method(self._messages(), timeout=timeout)

    def send(self, *messages: pb.ClassifyRequest) -> None:
        """Send messages."""
        for each in messages:
            self._outbox.put(each)

    def close(self) -> None:
        """Say that there are no more messages."""
        self._outbox.put(None)

    def answers(self, count: int) -> list[pb.ClassifyStreamResponse]:
        """Return the next answers."""
        return [next(self.call) for _ in range(count)]

    def _messages(self) -> Iterator[pb.ClassifyRequest]:
        while (each := self._outbox.get()) is not None:
            self.sent += 1
            yield each


@pytest.fixture
def open_stream(channel: Channel) -> Iterator[Callable[..., Stream]]:
    """Return what opens a stream; all are closed in the end."""
    opened = []

    def make(server: Server, timeout: float | None = WAIT) -> Stream:
        opened.append(Stream(channel(server), timeout))
        return opened[-1]

    yield make
    for stream in opened:
        stream.close()
        stream.call.cancel()


OpenStream = Callable[..., Stream]


def test_many_messages(start_server: StartServer, open_stream: OpenStream, repository: Path) -> None:
    """Five hundred messages on one stream are answered right, each by its id, and the stream then ends well."""
    stream = open_stream(start_server(repository))
    stream.send(*(message(number) for number in range(500)))
    stream.close()
    answers = list(stream.call)
    assert sorted(int(answer.id) for answer in answers) == list(range(500))
    best = probabilities(pictures(6), weights()).argmax(axis=1)
    for answer in answers:
        assert answer.response.id == answer.id
        assert answer.response.classifications[0].categories[0].index == best[int(answer.id) % 6]
    assert stream.call.code() is grpc.StatusCode.OK


def test_a_failure_is_its_messages_own(start_server: StartServer, open_stream: OpenStream, repository: Path) -> None:
    """A bad message is answered with its status and details; the stream and the messages around it go on."""
    stream = open_stream(start_server(repository))
    bad = pb.ClassifyRequest(id="bad", images=[pb.Image(encoded=b"garbage")])
    stream.send(message(0), bad, message(1, model="nobody"), message(2))
    by_id = {answer.id: answer for answer in stream.answers(4)}
    assert by_id["bad"].error.code == code_pb2.INVALID_ARGUMENT
    assert "images[0]" in by_id["bad"].error.message
    assert by_id["bad"].error.details
    assert by_id["1"].error.code == code_pb2.NOT_FOUND
    assert by_id["0"].response.classifications
    assert by_id["2"].response.classifications


def test_bytes_that_are_no_message(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Bytes that are no message are answered with INVALID_ARGUMENT, and the next message is answered."""
    method: Any = channel(start_server(repository)).stream_stream(
        CLASSIFY_STREAM, request_serializer=None, response_deserializer=pb.ClassifyStreamResponse.FromString
    )
    first, second = method(iter([b"\xff" * 9, message(3).SerializeToString()]), timeout=WAIT)
    by_id = {answer.id: answer for answer in (first, second)}
    assert by_id[""].error.code == code_pb2.INVALID_ARGUMENT
    assert by_id["3"].response.classifications


def test_window(start_server: StartServer, open_stream: OpenStream, repository: Path, held: HeldSession) -> None:
    """The server takes no more messages of a stream than its window holds while none is answered."""
    server: Server = start_server(repository, load=held.load(queue_size=500))
    stream = open_stream(server)
    stream.send(*(message(number) for number in range(4 * WINDOW)))
    assert held.began.acquire(timeout=WAIT)
    sample = server.metrics.registry.get_sample_value

    def waiting() -> float | None:
        return sample("saccade_queue_depth", {"model": "linear", "version": "1"})

    settle = threading.Event()
    deadline = WAIT / 0.02
    while waiting() != WINDOW - 1 and deadline > 0:
        settle.wait(0.02)
        deadline -= 1
    settle.wait(0.2)  # a server without the window would take more in this time
    assert waiting() == WINDOW - 1
    held.gate.set()
    assert len(stream.answers(4 * WINDOW)) == 4 * WINDOW


def test_timeout_of_a_message(
    start_server: StartServer, open_stream: OpenStream, repository: Path, held: HeldSession
) -> None:
    """A message whose timeout_ms passes while it waits is DEADLINE_EXCEEDED and never computed; others are answered."""
    stream = open_stream(start_server(repository, load=held.load()))
    stream.send(message(0))
    assert held.began.acquire(timeout=WAIT)
    stream.send(message(1, timeout_ms=50), message(2))
    [late] = stream.answers(1)
    assert (late.id, late.error.code) == ("1", code_pb2.DEADLINE_EXCEEDED)
    held.gate.set()
    by_id = {answer.id: answer for answer in stream.answers(2)}
    assert by_id["0"].response.classifications
    assert by_id["2"].response.classifications
    assert held.pictures == 2


def test_a_caller_who_leaves(
    start_server: StartServer, open_stream: OpenStream, repository: Path, held: HeldSession
) -> None:
    """When a stream is cancelled, what it had waiting is never computed."""
    server: Server = start_server(repository, load=held.load(queue_size=100))
    leaving, staying = open_stream(server), open_stream(server)
    leaving.send(*(message(number) for number in range(20)))
    assert held.began.acquire(timeout=WAIT)
    until_waiting(server, 19)
    leaving.call.cancel()
    until_waiting(server, 0)
    held.gate.set()
    staying.send(message(0))
    assert staying.answers(1)[0].response.classifications
    assert held.pictures == 2


def test_too_many_streams(start_server: StartServer, open_stream: OpenStream, repository: Path) -> None:
    """A stream beyond --max-streams is RESOURCE_EXHAUSTED at once; those that are open go on."""
    server: Server = start_server(repository, max_streams=2)
    streams = [open_stream(server) for _ in range(2)]
    for stream in streams:
        stream.send(message(0))
        stream.answers(1)
    with pytest.raises(grpc.RpcError) as caught:
        next(open_stream(server).call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 streams are under way" in (caught.value.details() or "")
    streams[0].send(message(1))
    assert streams[0].answers(1)[0].id == "1"


def test_an_idle_stream_is_closed(start_server: StartServer, open_stream: OpenStream, repository: Path) -> None:
    """A stream on which nothing happens for --stream-idle seconds ends with UNAVAILABLE that says so."""
    stream = open_stream(start_server(repository, stream_idle=0.2))
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "0.2 s" in (caught.value.details() or "")


def test_a_caller_that_takes_no_answers_is_left(
    start_server: StartServer, open_stream: OpenStream, repository: Path
) -> None:
    """A stream whose answers nobody takes for --stream-idle seconds is cancelled, and its place is free again."""
    server: Server = start_server(repository, stream_idle=1.0, max_streams=1)
    stuck = open_stream(server, timeout=None)
    # An answer repeats the id: those of 30 messages are more than gRPC takes for a caller ahead of it.
    stuck.send(*(pb.ClassifyRequest(id="x" * 1_000_000, images=message(number).images) for number in range(30)))
    stuck.call.initial_metadata()  # the first answer was sent
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        other = open_stream(server)
        other.send(message(1))
        try:
            assert other.answers(1)[0].id == "1"
        except grpc.RpcError as refused:
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            other.close()
            time.sleep(0.02)
        else:
            return
    pytest.fail("the place was never given back")


def test_drain_answers_what_is_under_way(
    start_server: StartServer, open_stream: OpenStream, repository: Path, held: HeldSession
) -> None:
    """A drain answers what a stream has under way, and then ends the stream with UNAVAILABLE."""
    server: Server = start_server(repository, load=held.load())
    stream = open_stream(server)
    stream.send(message(0), message(1))
    assert held.began.acquire(timeout=WAIT)
    until_waiting(server, 1)
    drain = threading.Thread(target=lambda: server.drain(delay=0, refuse=0))
    drain.start()
    held.gate.set()
    answers = {answer.id: answer for answer in stream.answers(2)}
    assert all(answer.response.classifications for answer in answers.values())
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    drain.join(WAIT)
    assert not drain.is_alive()


def test_an_idle_stream_does_not_hold_the_drain(
    start_server: StartServer, open_stream: OpenStream, repository: Path
) -> None:
    """An open stream with nothing under way ends with UNAVAILABLE as soon as the server drains."""
    server: Server = start_server(repository)
    stream = open_stream(server)
    stream.send(message(0))
    stream.answers(1)
    server.drain(delay=0, refuse=0)
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_messages_are_counted(start_server: StartServer, open_stream: OpenStream, repository: Path) -> None:
    """Every message is counted by its own status under ClassifyStream."""
    server: Server = start_server(repository)
    stream = open_stream(server)
    stream.send(message(0), message(1, model="nobody"))
    stream.answers(2)
    sample = server.metrics.registry.get_sample_value
    assert sample("saccade_requests_total", {"model": "linear", "method": "ClassifyStream", "code": "OK"}) == 1
    assert sample("saccade_requests_total", {"model": "", "method": "ClassifyStream", "code": "NOT_FOUND"}) == 1


def test_stream_equals_unary(
    start_server: StartServer, open_stream: OpenStream, repository: Path, channel: Channel
) -> None:
    """A stream gives the same probabilities as a call, bit by bit."""
    server: Server = start_server(repository)
    stream = open_stream(server)
    stream.send(message(4))
    unary: Any = channel(server).unary_unary(
        "/saccade.v1.ImageClassifier/Classify",
        request_serializer=pb.ClassifyRequest.SerializeToString,
        response_deserializer=pb.ClassifyResponse.FromString,
    )
    rows = [stream.answers(1)[0].response, unary(message(4), timeout=WAIT)]
    first, second = ([entry.probability for entry in row.classifications[0].categories] for row in rows)
    np.testing.assert_array_equal(first, second)
