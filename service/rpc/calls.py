"""Around every RPC of ours: refuse, parse, failure to status, count and time.

Nothing here waits. A method begins a call on gRPC's polling thread and returns; whoever has the answer gives it.
Health and reflection are never refused: see service.rpc.health; reflection is not ours and has threads of its own.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache, partial
from math import inf
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from service import logs
from service.batcher import Later
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    RefusalReason,
    SaccadeError,
    Unavailable,
    raising,
)
from service.metrics import Metrics
from service.rpc import parts
from service.rpc.deadlines import Deadlines, Entry
from service.rpc.statuses import StatusWithDetails, to_status
from service.rpc.wire import Wire, handler

Request = TypeVar("Request", bound=Message)
Parsed_co = TypeVar("Parsed_co", bound=Message, covariant=True)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
"""gRPC's handler of one method; it is generic only for type checkers."""


_ANSWER_TO_REQUEST = 0.0002
"""Seconds: who was just answered hardly asks again so soon (150 us at the least), so a call that comes sooner is
another caller's, and more of them wait in the sockets: worth a batch."""


class Parser(Protocol[Parsed_co]):
    """A message class."""

    def FromString(self, raw: bytes) -> Parsed_co: ...  # noqa: D102, N802 - protobuf's name


def parse(parser: Parser[Request], raw: bytes) -> Request:
    """Return the message of these bytes.

    Raises:
        InvalidInput: they are no such message, or one of more fields or numbers than any needs.
    """
    parts.check(raw, parts.INSIDE.get(getattr(parser, "__name__", ""), parts.NOTHING))
    try:
        return parser.FromString(raw)
    except DecodeError:
        raise InvalidInput("request", f"{len(raw):,} bytes that are no message of this method") from None


def sooner(deadline: float | None, seconds: float) -> float:
    """Return the deadline of a message that gives itself so many seconds from now."""
    own = time.monotonic() + seconds
    return own if deadline is None else min(own, deadline)


class Call:
    """One request under way, as a method sees it: a unary call, or one message of a stream.

    Attributes:
        deadline: on `time.monotonic`; None where the caller set none.
        alone: whether no other is under way.
        started: when its message was there.
        leave: gives up what was begun.
        later: see service.batcher.
        model: set by the method as soon as it is known, for the metrics; likewise `version`, where one is run, and
            `id`, for the log.
    """

    __slots__ = (
        "_ended",
        "_given",
        "_own_deadline",
        "alone",
        "deadline",
        "id",
        "later",
        "leave",
        "model",
        "started",
        "version",
    )

    def __init__(self, deadline: float | None, later: Later, *, alone: bool) -> None:
        self.deadline = self._given = deadline
        self._own_deadline: Entry | None = None
        self._ended = False
        self.leave: Callable[[], None] = lambda: None
        self.later = later
        self.alone = alone
        self.started = time.monotonic()
        self.model = ""
        self.version = 0
        self.id = ""

    def begun(self, leave: Callable[[], None], deadlines: Deadlines, expire: Callable[[], None]) -> None:
        """Keep what gives it up, and watch the deadline that the request gave itself; gRPC watches its own."""
        self.leave = leave
        if self.deadline is not None and self.deadline != self._given:
            self._own_deadline = deadlines.at(self.deadline, expire)
            if self._ended:
                self._own_deadline.cancel()

    def ended(self) -> None:
        """Watch no more; told before `begun` where the answer is there at once, or by another thread just then."""
        self._ended = True
        if self._own_deadline is not None:
            self._own_deadline.cancel()


Make: TypeAlias = Callable[[], Message]
"""Returns the answer to a request, or raises why there is none."""

Begin: TypeAlias = Callable[[Request, Call, Callable[[Make], None]], Callable[[], None]]
"""Begins a request, given what takes its answer, from any thread, once; returns what gives it up. Does not block."""


def too_late() -> DeadlineExceeded:
    """Return what a caller gets whose deadline passed."""
    return DeadlineExceeded("the deadline passed before the answer was there")


def unanswered(deadline: float | None, now: float, why: str = "the caller left") -> SaccadeError:
    """Return what a request failed with that was over before it was answered."""
    if deadline is not None and now >= deadline:
        return DeadlineExceeded("the deadline passed")
    return Cancelled(why)


LEAVING = to_status(Unavailable("draining; try another server"))
"""What callers get while the server drains."""


class Record:
    """Counts, times and logs the requests of one method.

    Args:
        method: its name.
        metrics: where they are counted.
        access_log: log answered ones too, one line each.
    """

    def __init__(self, method: str, metrics: Metrics, *, access_log: bool = False) -> None:
        self._method = method
        self._metrics = metrics
        self._access_log = access_log

    def settle(self, call: Call, make: Make) -> bytes | StatusWithDetails:
        """Record what comes of a request and return it: the bytes of its answer, or the status of its failure."""
        try:
            return self._settle(call, make)
        except Exception as error:  # noqa: BLE001 - it could not be recorded, and still the caller must hear of it
            return to_status(error)

    def _settle(self, call: Call, make: Make) -> bytes | StatusWithDetails:
        call.ended()
        now = time.monotonic()
        try:
            if call.deadline is not None and now >= call.deadline:
                raise too_late()
            raw = make().SerializeToString()
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller hears of it by the table
            return self.failed(error, call, now)
        seconds = now - call.started
        self._metrics.call(call.model, self._method, "OK", seconds, call.version)
        if self._access_log:
            logs.info("call", method=self._method, model=call.model, ms=round(seconds * 1000, 3), id=call.id)
        return raw

    def failed(self, error: Exception, call: Call, now: float) -> StatusWithDetails:
        """Record a failure and return its status; refusals, which come by the thousand, share one log line a second."""
        status = to_status(error)
        code = status.code.name
        self._metrics.call(call.model, self._method, code, now - call.started, call.version)
        if isinstance(error, Overloaded):
            self._metrics.refused(call.model, error.reason)
            logs.sometimes("calls refused", method=self._method, model=call.model, reason=str(error))
        elif status.code is not grpc.StatusCode.INTERNAL:
            logs.bounded("call failed", method=self._method, model=call.model, code=code, reason=str(error), id=call.id)
        return status

    def refuse(self, wire: Wire, status: StatusWithDetails, reason: RefusalReason) -> None:
        """Record an RPC that is refused before its message is read, and end it."""
        self._metrics.refused("", reason)
        logs.sometimes("calls refused", method=self._method, reason=status.details)
        self._metrics.call("", self._method, status.code.name, 0.0)
        wire.end(status=status)


class UnaryCall(Call):
    """A unary call, and the way back to its caller."""

    __slots__ = ("_once", "_record", "_wire")

    def __init__(self, wire: Wire, record: Record, *, alone: bool) -> None:
        super().__init__(wire.deadline, wire.later, alone=alone)
        self._wire = wire
        self._record = record
        self._once = threading.Lock()

    @property
    def is_answered(self) -> bool:
        """Whether it was answered; from any thread."""
        return self._once.locked()

    def answer(self, make: Make) -> None:
        """Answer with what `make` returns, or with the status of what it raises; from any thread, once."""
        if not self._once.acquire(blocking=False):
            return
        settled = self._record.settle(self, make)
        if isinstance(settled, bytes):
            self._wire.end(settled)
        else:
            self._wire.end(status=settled)

    def fail(self, error: Exception) -> None:
        """Answer with the status of a failure."""
        self.answer(raising(error))

    def over(self) -> None:
        """Take note that gRPC is done with the call; if it was not answered, its caller left."""
        if not self._once.acquire(blocking=False):
            return
        self.ended()
        now = time.monotonic()
        self._record.failed(unanswered(self.deadline, now), self, now)
        self.leave()

    def unheard(self) -> None:
        """Answer that there is no message, and take note of what came of that once gRPC is done with the call."""
        error = InvalidInput("request", "is missing: the call ended without a message")

        def over() -> None:
            if self._wire.left:
                self.over()
            else:
                self._record.failed(error, self, time.monotonic())

        self._wire.end(status=to_status(error))
        if not self._wire.on_end(over):
            over()

    def expire(self) -> None:
        """Answer that the deadline passed, and give up what was begun."""
        self.fail(too_late())
        self.leave()


def _work(make: Make, call: Call, ready: Callable[[Make], None]) -> None:
    """Make an answer that takes a while and only then hand it over, so that its time counts, and a caller can leave."""
    try:
        if call.deadline is not None and time.monotonic() >= call.deadline:
            raise too_late()
        message = make()
    except Exception as error:  # noqa: BLE001 - see Record.settle
        ready(raising(error))
    else:
        ready(lambda: message)


class Answerer(Protocol):
    """A model, as far as calls go before their message is read."""

    @property
    def least_wait(self) -> float:
        """Seconds below which no call that comes now would be answered."""
        ...


@lru_cache(256)
def _too_late(milliseconds: int) -> StatusWithDetails:
    """Return what a call gets whose deadline is sooner than any model could answer."""
    text = f"an answer would take {milliseconds} ms or more; the deadline is sooner"
    return to_status(Overloaded(text, reason="deadline", retry_after=milliseconds / 1000, in_time=False))


class Calls:
    """All unary calls of a server.

    Args:
        limit: how many may be under way; beyond that they are refused before their message is read, which is cheaper
            than to be refused by the queue and keeps large messages out. May be changed at any time.
        metrics: where they are counted.
        deadlines: watches those that requests give themselves.
        idle: seconds after which a call whose answer nobody takes is cancelled.
        access_log: log answered calls too.

    Attributes:
        answerers: the models that are served. A call whose deadline none of them could meet is refused before its
            message is read. May be changed at any time.
    """

    def __init__(
        self, limit: int, metrics: Metrics, deadlines: Deadlines, *, idle: float, access_log: bool = False
    ) -> None:
        self.limit = limit
        self.answerers: Sequence[Answerer] = ()
        self._metrics = metrics
        self._deadlines = deadlines
        self._access_log = access_log
        self._idle = idle
        self._under_way: dict[UnaryCall, Wire] = {}  # changed by gRPC's one polling thread only
        self._untaken: dict[Wire, float] = {}  # those answered and not over, since when; looked at now and then
        self._sweeps = False
        self._last = 0.0  # when the last call was begun, and answered if it was alone
        self._closed = False
        self._none = threading.Condition()
        text = "as many calls are under way as the queues hold; try again"
        self._full = to_status(Overloaded(text, reason="pool_full", retry_after=0.1))

    def unary(
        self,
        begin: Begin[Request],
        parser: Parser[Request],
        method: str,
        *,
        limited: bool = True,
    ) -> Handler:
        """Return the gRPC handler of a unary method.

        Args:
            begin: begins a call, on gRPC's polling thread; what it raises answers the call.
            parser: of the request.
            method: its name.
            limited: whether it is refused when too many calls are under way.
        """
        record = Record(method, self._metrics, access_log=self._access_log)

        def arrive(wire: Wire) -> None:
            if self._refuse(wire, record, limited=limited) or (limited and self._refuse_late(wire, record)):
                return
            wire.receive(partial(message, wire))

        def message(wire: Wire, raw: bytes | None) -> None:
            if raw is None:  # the caller left or forgot its message; who left is not there to be told
                UnaryCall(wire, record, alone=False).unheard()
            elif not self._refuse(wire, record, limited=limited):
                alone = not self._under_way and wire.arrived - self._last > _ANSWER_TO_REQUEST
                call = UnaryCall(wire, record, alone=alone)
                try:
                    if not self._count(wire, call):
                        call.over()
                        return
                    call.begun(begin(parse(parser, raw), call, call.answer), self._deadlines, call.expire)
                except Exception as error:  # noqa: BLE001 - see Record.settle
                    call.fail(error)
                self._last = time.monotonic()

        return handler(arrive)

    def blocking(
        self, answer: Callable[[Request, Call], Message], parser: Parser[Request], method: str, pool: Executor
    ) -> Handler:
        """Return the gRPC handler of a unary method whose answer takes a while: it is made on a thread of `pool`."""

        def begin(request: Request, call: Call, ready: Callable[[Make], None]) -> Callable[[], None]:
            work = pool.submit(_work, lambda: answer(request, call), call, ready)

            def leave() -> None:
                work.cancel()

            return leave

        return self.unary(begin, parser, method, limited=False)

    def close(self) -> None:
        """Refuse all new calls from now on."""
        self._closed = True

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no call is under way, after `close`; return whether that came to pass within `seconds`."""
        with self._none:
            return self._none.wait_for(lambda: not self._under_way, seconds)

    def _refuse(self, wire: Wire, record: Record, *, limited: bool) -> bool:
        """Refuse a call while draining or full; looked at when it arrives and again when its message is there."""
        if self._closed:
            record.refuse(wire, LEAVING, "draining")
        elif limited and len(self._under_way) >= self.limit:
            record.refuse(wire, self._full, "pool_full")
        else:
            return False
        return True

    def _refuse_late(self, wire: Wire, record: Record) -> bool:
        """Refuse a call that no model would answer in time, whichever it asks for.

        Under overload most calls are such. To read and parse them first took so long that those behind them waited for
        gRPC's thread till their deadlines were over, unseen by admission: of 3,000 calls a second to ResNet-20 with one
        thread, three times its peak, 547 and 405 were answered in time in two runs, and 730 and 772 since.
        """
        deadline = wire.deadline
        if deadline is None or not self.answerers:
            return False
        left, least = max(0.0, deadline - time.monotonic()), inf
        for answerer in self.answerers:
            least = min(least, answerer.least_wait)
            if least <= left:
                return False
        record.refuse(wire, _too_late(round(least * 1000)), "deadline")
        return True

    def _count(self, wire: Wire, call: UnaryCall) -> bool:
        """Count a call until gRPC is done with it; False: it is done already."""

        def over() -> None:
            del self._under_way[call]
            call.over()
            if self._closed and not self._under_way:
                with self._none:
                    self._none.notify_all()

        if not wire.on_end(over):
            return False
        self._under_way[call] = wire
        if not self._sweeps:
            self._sweep()
            self._sweeps = True
        return True

    def _sweep(self) -> None:
        """Cancel the calls whose answer nobody takes, looked at four times as often as it may lie.

        Such a caller keeps its HTTP/2 window shut, and its place for as long. Who is one is seen here and not noted by
        each call, which would cost every call and not these.
        """
        if self._closed:
            return
        now = time.monotonic()
        self._deadlines.at(now + self._idle / 4, self._sweep)
        # A copy is one step for Python, so that the polling thread changes nothing meanwhile.
        answered = [wire for call, wire in self._under_way.copy().items() if call.is_answered]
        self._untaken = {wire: self._untaken.get(wire, now) for wire in answered}
        for wire, since in self._untaken.items():
            if now - since >= self._idle:
                wire.cancel()
