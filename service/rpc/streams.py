"""Streams of requests: many messages on one stream, each answered as soon as it is ready.

A stream holds no thread: a message is begun by gRPC's polling thread, and whoever has its answer sends it, or leaves it
to the one that sends already. So a message costs about half of what a call costs.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from google.protobuf.message import Message

from service.errors import Overloaded, Unavailable, raising
from service.metrics import Metrics
from service.rpc.calls import LEAVING, Call, Handler, Make, Record, too_late, unanswered
from service.rpc.deadlines import Deadlines
from service.rpc.statuses import StatusWithDetails, to_status
from service.rpc.wire import Wire, handler

WINDOW = 64
"""Messages of one stream that may be under way: the next is not asked for, gRPC's flow control does the rest."""


class Dialect(Protocol):
    """What one method says on its streams."""

    @property
    def method(self) -> str:
        """Its name."""

    def begin(self, raw: bytes, call: Call, ready: Callable[[Make], None]) -> Callable[[], None]:
        """Begin one message; see service.rpc.calls.Begin. A deadline of the message's own goes into `call`.

        Raises:
            SaccadeError: the message cannot be begun.
        """

    def failure(self, call: Call, status: StatusWithDetails) -> Message:
        """Return the message that says why there is no answer."""


class Streams:
    """All open streams of a server.

    Args:
        metrics: counts and times every message.
        deadlines: watches those that messages give themselves.
        limit: how many may be open; beyond that they are refused.
        idle: seconds after which a stream on which nothing happens is closed.
        window: messages of one stream that may be under way.
        age: seconds after which a stream takes no more messages, and ends when what it has is answered.
    """

    def __init__(
        self,
        metrics: Metrics,
        deadlines: Deadlines,
        *,
        limit: int,
        idle: float,
        window: int = WINDOW,
        age: float = math.inf,
    ) -> None:
        self._metrics = metrics
        self._deadlines = deadlines
        self._limit = limit
        self._idle = idle
        self._window = window
        self._age = age
        self._old = to_status(Unavailable(f"this stream is {age:g} s old, as old as one gets; open a new one"))
        self._open: set[_Stream] = set()
        self._changed = threading.Condition()
        self._draining = False
        self._watch: threading.Thread | None = None
        text = f"{limit} streams are under way, the limit; try again"
        self._full = to_status(Overloaded(text, reason="pool_full", retry_after=0.1))

    def handler(self, dialect: Dialect) -> Handler:
        """Return the gRPC handler of one method."""
        return handler(partial(self._arrive, dialect, Record(dialect.method, self._metrics)), stream=True)

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

    def _arrive(self, dialect: Dialect, record: Record, wire: Wire) -> None:
        if self._draining:
            record.refuse(wire, LEAVING, "draining")
            return
        if len(self._open) >= self._limit:
            record.refuse(wire, self._full, "pool_full")
            return
        stream = _Stream(wire, dialect, record, self._deadlines, self._window)
        if not wire.on_end(partial(self._over, stream)):
            return
        with self._changed:
            self._open.add(stream)
            if self._watch is None:
                watch = threading.Thread(target=self._close_idle, name="streams", daemon=True)
                watch.start()  # raises where there is no thread to be had, and the next stream tries again
                self._watch = watch
        stream.begin()

    def _over(self, stream: "_Stream") -> None:
        stream.over()
        with self._changed:
            self._open.discard(stream)
            self._changed.notify_all()

    def _close_idle(self) -> None:
        """Close what is idle or old, looked at four times as often as a stream may be either."""
        pause = min(self._idle, self._age) / 4
        while not self._draining:
            with self._changed:
                self._changed.wait_for(lambda: self._draining, pause)
                streams = list(self._open)
            for stream in streams:
                stream.close_if_idle(self._idle)
                if stream.age >= self._age:
                    stream.drain(self._old)


class _Message(Call):
    """One message under way; never alone: many come on a stream, and run one by one they cost 522 us, not 439."""

    __slots__ = ("answered",)

    def __init__(self, wire: Wire, deadline: float | None) -> None:
        super().__init__(deadline, wire.later, alone=False)
        self.answered = False


class _Stream:
    """One open stream.

    Args:
        wire: the RPC.
        dialect: of its method.
        record: counts messages.
        deadlines: watches those that messages give themselves.
        window: how many of its messages may be under way.
    """

    def __init__(self, wire: Wire, dialect: Dialect, record: Record, deadlines: Deadlines, window: int) -> None:
        self._wire = wire
        self._dialect = dialect
        self._record = record
        self._deadlines = deadlines
        self._deadline = wire.deadline
        self._window = window
        self._leaving = LEAVING
        self._lock = threading.Lock()
        self._under_way: set[_Message] = set()
        self._ready: deque[tuple[_Message, Make]] = deque()
        self._sending = self._paused = False
        self._read_all = self._draining = self._ended = False
        self._touched = time.monotonic()
        self._send_began = math.inf  # while none is under way
        self._why = "the caller left"  # if it ends with messages under way

    def begin(self) -> None:
        """Ask for the first message."""
        self._wire.receive(self._receive)

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._wire.arrived

    def drain(self, why: StatusWithDetails = LEAVING) -> None:
        """Ask for no more messages; end for this reason when what is under way is answered."""
        if not self._draining:
            self._leaving, self._draining = why, True
            self._why = "the caller left, or its stream was cut when it should long have ended"  # gRPC does not tell
        self._end_if_done()

    def close_if_idle(self, idle: float) -> None:
        """End the stream if nothing happened for so many seconds, or its caller took no answer for as long."""
        with self._lock:
            now = time.monotonic()
            stuck = now - self._send_began >= idle
            quiet = now - self._touched >= idle and not self._sending and not self._under_way
        if stuck:
            self._why = f"the caller took no answer for {idle:g} s"
            self._wire.cancel()
        elif quiet:
            self._end(to_status(Unavailable(f"nothing happened on this stream for {idle:g} s; open a new one")))

    def over(self) -> None:
        """Take note that gRPC is done with the stream: what has not run yet never will."""
        with self._lock:
            self._ended = True
            under_way = list(self._under_way)
            self._under_way.clear()
        now = time.monotonic()
        for message in under_way:
            message.ended()
            message.leave()
            self._record.failed(unanswered(message.deadline, now, self._why), message, now)

    def _receive(self, raw: bytes | None) -> None:
        """Begin a message and ask for the next, unless the window is full; on gRPC's polling thread."""
        self._touched = time.monotonic()
        if raw is None:
            self._read_all = True
            self._end_if_done()
            return
        message = _Message(self._wire, self._deadline)
        with self._lock:
            self._under_way.add(message)
            self._paused = len(self._under_way) >= self._window
            paused = self._paused or self._draining
        try:
            if self._draining:
                raise Unavailable(self._leaving.details)
            leave = self._dialect.begin(raw, message, partial(self._done, message))
            message.begun(leave, self._deadlines, partial(self._expire, message))
        except Exception as error:  # noqa: BLE001 - see Record.settle
            self._done(message, raising(error))
        if not paused:
            self._wire.receive(self._receive)

    def _done(self, message: _Message, make: Make) -> None:
        """Send an answer, after those that are ready before it; from any thread."""
        with self._lock:
            if message.answered:
                return  # or expired, just before
            message.answered = True
            self._ready.append((message, make))
            if self._sending:
                return
            self._sending = True
        self._send_next()

    def _expire(self, message: _Message) -> None:
        self._done(message, raising(too_late()))
        message.leave()

    def _send_next(self) -> None:
        with self._lock:
            ready = self._ready.popleft() if self._ready and not self._ended else None
            self._sending = ready is not None
            if ready is not None:  # from here on it is this answer that is counted, also if the caller leaves
                self._under_way.discard(ready[0])
        if ready is None:
            self._end_if_done()
            return
        message, make = ready
        settled = self._record.settle(message, make)
        raw = settled if isinstance(settled, bytes) else self._dialect.failure(message, settled).SerializeToString()
        self._send_began = time.monotonic()
        self._wire.send(raw, self._sent)

    def _sent(self) -> None:
        """Go on with what is ready, and with reading if it waited for room; on gRPC's polling thread."""
        self._send_began = math.inf
        self._touched = time.monotonic()
        with self._lock:
            resume = self._paused and len(self._under_way) < self._window and not self._draining
            self._paused = self._paused and not resume
        if resume:
            self._wire.receive(self._receive)
        self._send_next()

    def _end_if_done(self) -> None:
        with self._lock:
            done = (self._read_all or self._draining) and not self._under_way and not self._sending
        if done:
            self._end(None if self._read_all else self._leaving)

    def _end(self, status: StatusWithDetails | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
            if status is not None:
                self._why = status.details
        self._wire.end(status=status)
