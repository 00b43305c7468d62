"""Streams of requests: many messages on one stream, each answered as soon as it is ready.

A stream holds two threads: gRPC's, which sends answers, and a reader. Whoever ends a request puts it on the stream's
queue, so that a message costs no thread of its own and no hand-off: about half of what a call costs.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.message import Message

from service.errors import DeadlineExceeded, SaccadeError, Unavailable
from service.metrics import Metrics
from service.rpc.interceptors import NO_DEADLINE, Call, Handler, StatusWithDetails, failed, to_status
from service.rpc.pools import CallPool

Finish: TypeAlias = Callable[[], Message]
"""Returns the answer to one message, or raises why there is none."""

WINDOW = 64
"""Messages of one stream that may be under way: the reader waits with the next, gRPC's flow control does the rest."""


class Dialect(Protocol):
    """What one method says on its streams."""

    @property
    def method(self) -> str:
        """Its name."""

    def start(self, raw: bytes, call: Call, ready: Callable[[Finish], None]) -> Callable[[], None]:
        """Begin one message and return, once its pictures are queued, what gives them up.

        Args:
            raw: the bytes of the message.
            call: made complete: model, version, id, and a deadline of the message's own where that is sooner.
            ready: given what answers the message when it is over, by any thread; it does not block.

        Raises:
            SaccadeError: the message cannot be begun.
        """

    def failure(self, call: Call, status: StatusWithDetails) -> Message:
        """Return the message that says why there is no answer."""


class Streams:
    """All open streams of one method.

    Args:
        dialect: of the method.
        metrics: counts and times every message.
        idle: seconds after which a stream on which nothing happens is closed.
    """

    def __init__(self, dialect: Dialect, metrics: Metrics, *, idle: float) -> None:
        self._dialect = dialect
        self._metrics = metrics
        self._idle = idle
        self._lock = threading.Lock()
        self._open: set[_Stream] = set()
        self._draining = False

    @property
    def method(self) -> str:
        """The name of the method."""
        return self._dialect.method

    def handler(self, pool: CallPool) -> Handler:
        """Return the gRPC handler; each open stream holds a thread of `pool`."""

        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Message]:
            left = context.time_remaining()
            deadline = time.monotonic() + left if left < NO_DEADLINE else None
            stream = _Stream(self._dialect, self._metrics, deadline, idle=self._idle)
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

    __slots__ = ("call", "failure", "finish", "leave", "started")

    def __init__(self, deadline: float | None) -> None:
        self.started = time.monotonic()
        self.call = Call(deadline, lambda _: True)
        self.finish: Finish | None = None
        self.failure: Exception | None = None
        self.leave: Callable[[], None] = lambda: None

    def answer(self) -> Message:
        """Return the answer or raise why there is none."""
        if self.failure is not None:
            raise self.failure
        if self.finish is None:
            raise AssertionError("a message was ready without an answer. This is a bug.")
        if self.call.deadline is not None and time.monotonic() > self.call.deadline:
            raise DeadlineExceeded("the deadline passed before the answer was there")
        return self.finish()


class _Stream:
    """One open stream: the reader fills it, the thread of gRPC empties it."""

    def __init__(self, dialect: Dialect, metrics: Metrics, deadline: float | None, *, idle: float) -> None:
        self._dialect = dialect
        self._metrics = metrics
        self._deadline = deadline
        self._idle = idle
        self._ready: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()  # None: look at the flags again
        self._window = threading.Semaphore(WINDOW)
        self._lock = threading.Lock()
        self._under_way: set[_Message] = set()
        self._read_all = self._draining = self._left = False

    def answers(self, requests: Iterator[bytes]) -> Iterator[Message]:
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
        message = _Message(self._deadline)
        with self._lock:
            self._under_way.add(message)

        def ready(finish: Finish) -> None:
            message.finish = finish
            self._ready.put(message)

        try:
            if self._draining:
                raise Unavailable("draining; try another server")
            message.leave = self._dialect.start(raw, message.call, ready)
        except Exception as error:  # noqa: BLE001 - whatever it was, this message is answered by the table
            message.failure = error
            self._ready.put(message)

    def _response(self, message: _Message) -> Message:
        """Return what a message gets, counted."""
        call, method = message.call, self._dialect.method
        code = "OK"
        try:
            answer = message.answer()
        except Exception as error:  # noqa: BLE001 - whatever it was, this message is answered by the table
            status = failed(error, call, method, self._metrics)
            code = status.code.name
            answer = self._dialect.failure(call, status)
        self._metrics.call(call.model, method, code, time.monotonic() - message.started, call.version)
        return answer
