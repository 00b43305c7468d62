"""ClassifyStream: many messages on one stream, each answered as soon as it is ready.

A stream holds two threads: gRPC's, which sends answers, and a reader. Whoever ends a request puts it on the stream's
queue, so that a message costs no thread of its own and no hand-off: about half of what a call costs.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from service.errors import DeadlineExceeded, SaccadeError, Unavailable
from service.metrics import Metrics
from service.model import Answer, Model
from service.repository import Repository
from service.rpc.classifier import pictures_of, response_of
from service.rpc.interceptors import NO_DEADLINE, Call, Handler, failed, parse, to_status
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.rpc.pools import CallPool

METHOD = "ClassifyStream"
WINDOW = 64
"""Messages of one stream that may be under way: the reader waits with the next, gRPC's flow control does the rest."""


class Streams:
    """All open streams of a server.

    Args:
        repository: where the models are.
        metrics: counts and times every message.
        idle: seconds after which a stream on which nothing happens is closed.
    """

    def __init__(self, repository: Repository, metrics: Metrics, *, idle: float) -> None:
        self._repository = repository
        self._metrics = metrics
        self._idle = idle
        self._lock = threading.Lock()
        self._open: set[_Stream] = set()
        self._draining = False

    def handler(self, pool: CallPool) -> Handler:
        """Return the gRPC handler; each open stream holds a thread of `pool`."""

        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[pb.ClassifyStreamResponse]:
            left = context.time_remaining()
            deadline = time.monotonic() + left if left < NO_DEADLINE else None
            stream = _Stream(self._repository, self._metrics, deadline, idle=self._idle)
            with self._lock:
                self._open.add(stream)
                if self._draining:
                    stream.drain()
            if not context.add_callback(stream.interrupt):
                stream.interrupt()
            try:
                yield from stream.answers(requests)
            except SaccadeError as error:
                context.abort_with_status(to_status(error))
            finally:
                stream.leave()
                with self._lock:
                    self._open.discard(stream)

        behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(
            behavior, response_serializer=lambda message: message.SerializeToString()
        )

    def drain(self) -> None:
        """Take no new message on any stream; each ends with UNAVAILABLE when what it has under way is answered."""
        with self._lock:
            self._draining = True
            for stream in self._open:
                stream.drain()


class _Message:
    """One message under way: its call, and what will answer it."""

    __slots__ = ("answer", "call", "deadline", "failure", "leave", "model", "started")

    def __init__(self, started: float) -> None:
        self.started = started
        self.call = Call(None, lambda _: True)
        self.deadline: float | None = None
        self.model: Model | None = None
        self.answer: Callable[[], Answer] | None = None
        self.failure: Exception | None = None
        self.leave: Callable[[], None] = lambda: None

    def response(self) -> pb.ClassifyResponse:
        """Return the answer or raise why there is none."""
        if self.failure is not None:
            raise self.failure
        if self.answer is None or self.model is None:
            raise AssertionError("a message was ready without an answer. This is a bug.")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded("the deadline passed before the answer was there")
        return response_of(self.answer(), self.model.facts, self.call.id)


class _Stream:
    """One open stream: the reader fills it, the thread of gRPC empties it."""

    def __init__(self, repository: Repository, metrics: Metrics, deadline: float | None, *, idle: float) -> None:
        self._repository = repository
        self._metrics = metrics
        self._deadline = deadline
        self._idle = idle
        self._ready: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()  # None: look at the flags again
        self._window = threading.Semaphore(WINDOW)
        self._lock = threading.Lock()
        self._under_way: set[_Message] = set()
        self._read_all = self._draining = self._left = False

    def answers(self, requests: Iterator[bytes]) -> Iterator[pb.ClassifyStreamResponse]:
        """Yield the answers as they are ready, until the caller has no more messages and all are answered."""
        reader = threading.Thread(target=self._read, args=(requests,), name="stream-reader", daemon=True)
        reader.start()
        while True:
            try:
                message = self._ready.get(timeout=self._idle)
            except queue.Empty:
                if not self._under_way:
                    raise Unavailable(f"nothing happened on this stream for {self._idle:g} s; open a new one") from None
                continue
            if message is not None:
                yield self._response(message)
                with self._lock:
                    self._under_way.discard(message)
                self._window.release()
            if self._left or (self._read_all and not self._under_way):
                return
            if self._draining and not self._under_way:
                raise Unavailable("draining; try another server")

    def drain(self) -> None:
        """Answer what is under way and end."""
        self._draining = True
        self._ready.put(None)

    def interrupt(self) -> None:
        """Wake both threads, to see that the caller left; gRPC calls this on its polling thread, so it does no more."""
        self._left = True
        self._window.release()
        self._ready.put(None)

    def leave(self) -> None:
        """End the stream, for whatever reason: what has not run yet never will."""
        self.interrupt()
        with self._lock:
            under_way = list(self._under_way)
        for message in under_way:
            message.leave()

    def _read(self, requests: Iterator[bytes]) -> None:
        try:
            while not self._left and not self._draining:
                self._window.acquire()
                raw = next(requests, None)
                if raw is None:
                    self._read_all = True
                    break
                if not self._left:
                    self._begin(raw)
        except Exception:  # noqa: BLE001 - gRPC raises its own when the caller is gone
            self._left = True
        finally:
            self._ready.put(None)

    def _begin(self, raw: bytes) -> None:
        """Put one message under way; its failure is its own."""
        message = _Message(time.monotonic())
        with self._lock:
            self._under_way.add(message)
        try:
            if self._draining:
                raise Unavailable("draining; try another server")
            self._start(message, parse(pb.ClassifyRequest, raw))
        except Exception as error:  # noqa: BLE001 - whatever it was, this message is answered by the table
            message.failure = error
            self._ready.put(message)

    def _start(self, message: _Message, request: pb.ClassifyRequest) -> None:
        message.call.id = request.id
        own = message.started + request.timeout_ms / 1000 if request.timeout_ms else None
        message.deadline = min((limit for limit in (own, self._deadline) if limit is not None), default=None)
        message.model = self._repository.find(request.model, request.version)
        message.call.model = message.model.facts.name

        def on_done(answer: Callable[[], Answer]) -> None:
            message.answer = answer
            self._ready.put(message)

        message.leave = message.model.start(
            pictures_of(request), top_k=request.top_k, deadline=message.deadline, on_done=on_done
        )

    def _response(self, message: _Message) -> pb.ClassifyStreamResponse:
        """Return what a message gets, counted."""
        seconds = time.monotonic() - message.started
        try:
            answer = pb.ClassifyStreamResponse(id=message.call.id, response=message.response())
        except Exception as error:  # noqa: BLE001 - whatever it was, this message is answered by the table
            status = failed(error, message.call, METHOD, self._metrics)
            self._metrics.call(message.call.model, METHOD, status.code.name, seconds)
            return pb.ClassifyStreamResponse(id=message.call.id, error=status.message)
        self._metrics.call(message.call.model, METHOD, "OK", seconds)
        return answer
