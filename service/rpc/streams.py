"""ClassifyStream: many messages on one stream, each answered as soon as it is ready.

A stream holds no thread: a message is begun by gRPC's polling thread, and whoever has its answer sends it, or leaves it
to the one that sends already. So a message costs about half of what a call costs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from service.errors import Cancelled, DeadlineExceeded, Overloaded, Unavailable
from service.metrics import Metrics
from service.model import Answer
from service.repository import Repository
from service.rpc.calls import Handler, Record, parse
from service.rpc.classifier import pictures_of, response_of
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.rpc.statuses import StatusWithDetails, to_status
from service.rpc.wire import Wire, handler

METHOD = "ClassifyStream"
WINDOW = 64
"""Messages of one stream that may be under way: the next is not asked for, gRPC's flow control does the rest."""
_LEAVING = Unavailable("draining; try another server")


class Streams:
    """All open streams of a server.

    Args:
        repository: where the models are.
        metrics: counts and times every message.
        limit: how many may be open; beyond that they are refused.
        idle: seconds after which a stream on which nothing happens is closed.
    """

    def __init__(self, repository: Repository, metrics: Metrics, *, limit: int, idle: float) -> None:
        self._repository = repository
        self._record = Record(METHOD, metrics)
        self._limit = limit
        self._idle = idle
        self._open: set[_Stream] = set()
        self._changed = threading.Condition()
        self._draining = False
        self._watch: threading.Thread | None = None
        text = f"{limit} streams are under way, the limit; try again"
        self._full = to_status(Overloaded(text, reason="pool_full", retry_after=0.1))

    def handler(self) -> Handler:
        """Return the gRPC handler."""
        return handler(self._arrive, stream=True)

    def close(self) -> None:
        """Refuse new streams from now on."""
        self._draining = True

    def drain(self) -> None:
        """Take no new message on any stream; each ends with UNAVAILABLE when what it has under way is answered."""
        self._draining = True
        with self._changed:
            streams = list(self._open)
            self._changed.notify_all()
        for stream in streams:
            stream.drain()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no stream is open, after `drain`; return whether that came to pass within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, seconds)

    def _arrive(self, wire: Wire) -> None:
        if self._draining:
            status = to_status(_LEAVING)
            self._record.refused(status, "draining")
            wire.end(status=status)
            return
        if len(self._open) >= self._limit:
            self._record.refused(self._full, "pool_full")
            wire.end(status=self._full)
            return
        stream = _Stream(wire, self._repository, self._record)
        if not wire.on_end(partial(self._over, stream)):
            return
        with self._changed:
            self._open.add(stream)
            if self._watch is None:
                self._watch = threading.Thread(target=self._close_idle, name="streams", daemon=True)
                self._watch.start()
        stream.begin()

    def _over(self, stream: "_Stream") -> None:
        stream.over()
        with self._changed:
            self._open.discard(stream)
            self._changed.notify_all()

    def _close_idle(self) -> None:
        """Close what is idle, looked at four times as often as a stream may be."""
        while not self._draining:
            with self._changed:
                self._changed.wait_for(lambda: self._draining, self._idle / 4)
                streams = list(self._open)
            for stream in streams:
                stream.close_if_idle(self._idle)


class _Message:
    """One message under way, and what will answer it."""

    __slots__ = ("answer", "deadline", "id", "leave", "model", "started")

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.deadline: float | None = None
        self.model = ""
        self.id = ""
        self.leave: Callable[[], None] = lambda: None
        self.answer: Callable[[], pb.ClassifyResponse]

    def response(self, record: Record) -> pb.ClassifyStreamResponse:
        """Return what the message gets, counted."""
        now = time.monotonic()
        seconds = now - self.started
        try:
            if self.deadline is not None and now >= self.deadline:
                raise DeadlineExceeded("the deadline passed before the answer was there")
            response = self.answer()
        except Exception as error:  # noqa: BLE001 - whatever it was, this message is answered by the table
            status = record.failed(error, self.model, self.id, seconds)
            return pb.ClassifyStreamResponse(id=self.id, error=status.message)
        record.answered(self.model, self.id, seconds)
        return pb.ClassifyStreamResponse(id=self.id, response=response)


class _Stream:
    """One open stream.

    Args:
        wire: the RPC.
        repository: where the models are.
        record: counts messages.
    """

    def __init__(self, wire: Wire, repository: Repository, record: Record) -> None:
        self._wire = wire
        self._repository = repository
        self._record = record
        self._deadline = wire.deadline
        self._lock = threading.Lock()
        self._under_way: set[_Message] = set()
        self._ready: deque[_Message] = deque()
        self._sending = self._paused = False
        self._read_all = self._draining = self._ended = False
        self._touched = time.monotonic()

    def begin(self) -> None:
        """Ask for the first message."""
        self._wire.receive(self._receive)

    def drain(self) -> None:
        """Ask for no more messages; end when what is under way is answered."""
        self._draining = True
        self._end_if_done()

    def close_if_idle(self, idle: float) -> None:
        """End the stream if nothing happened for so many seconds."""
        with self._lock:
            busy = self._under_way or time.monotonic() - self._touched < idle
        if not busy:
            self._end(to_status(Unavailable(f"nothing happened on this stream for {idle:g} s; open a new one")))

    def over(self) -> None:
        """Take note that gRPC is done with the stream: what has not run yet never will."""
        with self._lock:
            self._ended = True
            under_way = list(self._under_way)
            self._under_way.clear()
        for message in under_way:
            message.leave()
            seconds = time.monotonic() - message.started
            self._record.failed(Cancelled("the caller left"), message.model, message.id, seconds)

    def _receive(self, raw: bytes | None) -> None:
        """Begin a message and ask for the next, unless the window is full; on gRPC's polling thread."""
        self._touched = time.monotonic()
        if raw is None:
            self._read_all = True
            self._end_if_done()
            return
        message = _Message()
        with self._lock:
            self._under_way.add(message)
            self._paused = len(self._under_way) >= WINDOW
            paused = self._paused or self._draining
        try:
            if self._draining:
                raise _LEAVING
            self._start(message, parse(pb.ClassifyRequest, raw))
        except Exception as error:  # noqa: BLE001 - see _Message.response
            self._done(message, partial(_raise, error))
        if not paused:
            self._wire.receive(self._receive)

    def _start(self, message: _Message, request: pb.ClassifyRequest) -> None:
        message.id = request.id
        own = message.started + request.timeout_ms / 1000 if request.timeout_ms else None
        message.deadline = min((limit for limit in (own, self._deadline) if limit is not None), default=None)
        model = self._repository.find(request.model, request.version)
        message.model = model.facts.name

        def on_done(answer: Callable[[], Answer]) -> None:
            self._done(message, lambda: response_of(answer(), model.facts, message.id))

        message.leave = model.start(
            pictures_of(request),
            top_k=request.top_k,
            deadline=message.deadline,
            alone=len(self._under_way) == 1,
            on_done=on_done,
        )

    def _done(self, message: _Message, answer: Callable[[], pb.ClassifyResponse]) -> None:
        """Send an answer, after those that are ready before it; from any thread."""
        message.answer = answer
        with self._lock:
            self._ready.append(message)
            if self._sending:
                return
            self._sending = True
        self._send_next()

    def _send_next(self) -> None:
        with self._lock:
            message = self._ready.popleft() if self._ready and not self._ended else None
            self._sending = message is not None
        if message is None:
            self._end_if_done()
            return
        raw = message.response(self._record).SerializeToString()
        with self._lock:
            self._under_way.discard(message)
        self._wire.send(raw, self._sent)

    def _sent(self) -> None:
        """Go on with what is ready, and with reading if it waited for room; on gRPC's polling thread."""
        self._touched = time.monotonic()
        with self._lock:
            resume = self._paused and len(self._under_way) < WINDOW and not self._draining
            self._paused = self._paused and not resume
        if resume:
            self._wire.receive(self._receive)
        self._send_next()

    def _end_if_done(self) -> None:
        with self._lock:
            done = (self._read_all or self._draining) and not self._under_way and not self._sending
        if done:
            self._end(None if self._read_all else to_status(_LEAVING))

    def _end(self, status: StatusWithDetails | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._wire.end(status=status)


def _raise(error: Exception) -> pb.ClassifyResponse:
    raise error
