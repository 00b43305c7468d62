"""Streams over a wire that is a fake: what is answered, what is counted, what is let go."""

import threading
import time
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message

from service.errors import Unavailable
from service.metrics import Metrics
from service.rpc.calls import Call, Make
from service.rpc.deadlines import Deadlines
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.rpc.statuses import StatusWithDetails
from service.rpc.streams import Streams
from tests.conftest import Lines
from tests.fake_wire import FakeWire

CODE = grpc.StatusCode


class Dialect:
    """A method whose messages the test answers."""

    method = "ClassifyStream"

    def __init__(self) -> None:
        self.on_begin: Callable[[Call], None] = lambda _: None
        self.begun: list[tuple[Call, Callable[[Make], None]]] = []
        self.left: list[Call] = []

    def begin(self, raw: bytes, call: Call, ready: Callable[[Make], None]) -> Callable[[], None]:
        """Keep a message."""
        self.begun.append((call, ready))
        self.on_begin(call)
        return lambda: self.left.append(call)

    def failure(self, call: Call, status: StatusWithDetails) -> Message:
        """Say why there is no answer."""
        return pb.ClassifyStreamResponse(id=call.id, error=status.message)


class Bench:
    """One open stream, and the messages that it begins."""

    def __init__(self, deadline: float | None = None) -> None:
        self.metrics, self.deadlines, self.dialect = Metrics(), Deadlines(), Dialect()
        self.streams = Streams(self.metrics, self.deadlines, limit=10, idle=3600.0)
        self.wire = FakeWire(deadline, arrived=time.monotonic())
        self.wire.arrive(self.streams.handler(self.dialect))
        [self.stream] = self.streams._open

    def begin(self) -> Callable[[Make], None]:
        """Let a message come; return what takes its answer."""
        self.wire.say(b"")
        return self.dialect.begun[-1][1]

    def counted(self) -> dict[str, float]:
        """Return how many messages of each status were counted."""
        found = self.metrics.registry.get_sample_value
        labels = {"model": "", "method": "ClassifyStream"}
        counts = {code.name: found("saccade_requests_total", {**labels, "code": code.name}) for code in CODE}
        return {code: count for code, count in counts.items() if count}


def test_a_deadline_of_its_own_of_who_left() -> None:
    """A message whose caller left is not kept for its own deadline."""
    bench = Bench()

    def own_deadline(call: Call) -> None:
        call.deadline = time.monotonic() + 3600

    bench.dialect.on_begin = own_deadline
    bench.begin()
    bench.wire.finish()
    assert [entry.callback for _, _, entry in bench.deadlines._heap] == [None]


def test_a_caller_who_leaves_as_it_is_answered() -> None:
    """A message whose caller leaves while its answer is made is counted once."""
    bench = Bench()
    ready = bench.begin()

    def make() -> Message:
        bench.wire.finish()
        return pb.ClassifyStreamResponse()

    ready(make)
    assert bench.counted() == {"OK": 1}


def test_an_answer_that_took_long() -> None:
    """A stream whose answer took longer than a stream may be idle is neither ended nor cancelled before it is sent."""
    bench = Bench()
    ready = bench.begin()

    def make() -> Message:
        bench.stream.close_if_idle(0.0)
        return pb.ClassifyStreamResponse()

    ready(make)
    assert (bench.wire.is_cancelled, bench.wire.ends, len(bench.wire.sent)) == (False, [], 1)


def test_messages_of_who_takes_no_answers() -> None:
    """A stream whose caller takes no answers is cancelled whatever messages it sends meanwhile."""
    bench = Bench()
    bench.begin()(pb.ClassifyStreamResponse)
    began = time.monotonic()
    threading.Event().wait(0.1)  # and the answer is not taken
    idle = time.monotonic() - began
    bench.begin()
    bench.stream.close_if_idle(idle)
    assert bench.wire.is_cancelled


def test_an_answer_that_is_taken() -> None:
    """A stream whose answers are taken is not cancelled, but ends if nothing more happens."""
    bench = Bench()
    bench.begin()(pb.ClassifyStreamResponse)
    bench.wire.on_sent()
    bench.stream.close_if_idle(0.0)
    assert (bench.wire.is_cancelled, bench.wire.code) == (False, CODE.UNAVAILABLE)


def test_a_caller_who_leaves(lines: Lines) -> None:
    """A message under way when its caller leaves is given up, and is CANCELLED in metrics and log."""
    bench = Bench()
    bench.begin()
    bench.wire.finish()
    assert (len(bench.dialect.left), bench.counted()) == (1, {"CANCELLED": 1})
    assert [line["reason"] for line in lines()] == ["the caller left"]


def test_a_reason_that_is_no_utf_8() -> None:
    """A message that fails for a reason that is no UTF-8 is answered and counted, and so is the one after it."""
    bench = Bench()

    def fail(_: Call) -> None:
        raise Unavailable("\udcff is a pipe")

    bench.dialect.on_begin = fail
    bench.begin()
    bench.wire.on_sent()
    bench.begin()
    assert (len(bench.wire.sent), bench.counted()) == (2, {"UNAVAILABLE": 2})


def test_a_deadline_of_the_stream() -> None:
    """A message under way when the deadline ends its stream is DEADLINE_EXCEEDED."""
    bench = Bench(deadline=0.0)
    bench.begin()
    bench.wire.finish()
    assert bench.counted() == {"DEADLINE_EXCEEDED": 1}


def test_a_stream_that_the_server_cancels(lines: Lines) -> None:
    """A message under way when the server cancels its stream is logged with that reason."""
    bench = Bench()
    bench.begin()(pb.ClassifyStreamResponse)
    bench.begin()
    bench.stream.close_if_idle(0.0)
    bench.wire.finish()
    assert [line["reason"] for line in lines()] == ["the caller took no answer for 0 s"]


def test_a_message_that_comes_as_its_stream_ends(lines: Lines) -> None:
    """A message that comes as the server ends an idle stream is logged with that reason."""
    bench = Bench()
    bench.stream.close_if_idle(0.0)
    bench.begin()
    bench.wire.finish()
    assert [line["reason"] for line in lines()] == ["nothing happened on this stream for 0 s; open a new one"]


def test_a_drain_that_cuts_a_stream(lines: Lines) -> None:
    """A message under way when gRPC cuts a stream that drains does not say that its caller left."""
    bench = Bench()
    bench.begin()
    bench.streams.drain()
    bench.wire.finish()
    [line] = lines()
    assert "or its stream was cut" in line["reason"]


def test_a_watch_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that comes when there is no thread to be had keeps none that come later from being watched."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    streams = Streams(Metrics(), Deadlines(), limit=10, idle=3600.0)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(threading.Thread, "start", start)
        FakeWire().arrive(streams.handler(Dialect()))
    FakeWire().arrive(streams.handler(Dialect()))
    assert streams._watch is not None
    assert streams._watch.is_alive()
