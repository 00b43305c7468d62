"""What one stream has under way: ids, deadlines, order, what is sent again elsewhere; nothing here waits or calls."""

import time
from collections import deque
from typing import Generic

from ..connection import Connection
from ..errors import Cancelled, DeadlineExceeded, InvalidInput, Overloaded, SaccadeError, Unavailable
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .answers import Streamed, answer_of
from .attempts import ChannelType, Clock, Link, Pool, pause
from .failures import of_message
from .pictures import serialized

WINDOW = 64
"""Items under way where the caller says nothing; servers work on as many of one stream."""


class _Item:
    """One item that is not answered yet."""

    __slots__ = ("deadline", "due", "failures", "request", "sent")

    def __init__(self, request: pb.ClassifyRequest, now: float, seconds: float) -> None:
        self.request = request
        self.deadline = now + seconds
        self.due = now  # when it may be sent
        self.sent = False
        self.failures = 0


class Exchange(Generic[ChannelType]):
    """The state of one stream, over however many connections it takes.

    Drive it so: `take` what the iterable gives; open a call where `link_to_open` says so; send what `due` returns;
    tell `receive` and `lost` what came, then `expire`; give away what `finished` returns; sleep for at most `wait`
    seconds.

    Args:
        pool: the client's.
        connection: how to reach the servers, for the largest message.
        seconds: for each item from when it is taken, repeats included.
        ordered: finish items in the order in which they were taken.
        clock: time.monotonic, or a test's.
    """

    def __init__(
        self,
        pool: Pool[ChannelType],
        connection: Connection,
        seconds: float,
        *,
        ordered: bool,
        clock: Clock = time.monotonic,
    ) -> None:
        self._pool = pool
        self._limit = connection.max_message_bytes
        self._seconds = seconds
        self._ordered = ordered
        self._clock = clock
        self._items: dict[int, _Item] = {}
        self._unsent: set[int] = set()
        self._taken = self._given = 0
        self._finished: deque[Streamed] = deque()
        self._early: dict[int, Streamed] = {}
        self._link: Link[ChannelType] | None = None
        self._opened_at = self._open_at = float("-inf")

    @property
    def idle(self) -> bool:
        """Whether all that was taken was answered and given away."""
        return not self._items and not self._finished and not self._early

    def take(self, request: pb.ClassifyRequest | SaccadeError) -> None:
        """Take the next item: its request, or why there can be none."""
        index, self._taken = self._taken, self._taken + 1
        if isinstance(request, SaccadeError):
            self._finish(Streamed(index, error=request))
            return
        request.id = str(index)
        try:
            serialized(request, self._limit - 16)  # timeout_ms is yet to come
        except InvalidInput as error:
            self._finish(Streamed(index, error=error))
            return
        self._items[index] = _Item(request, self._clock(), self._seconds)
        self._unsent.add(index)

    def link_to_open(self) -> Link[ChannelType] | None:
        """Return where to open a call now; None while one is open, is not needed, or must wait.

        Raises:
            Cancelled: the client is closed.
        """
        now = self._clock()
        if self._link is not None or now < self._open_at or not self._due(now):
            return None
        self._link, _ = self._pool.next(now)
        self._opened_at = now
        return self._link

    def due(self) -> list[pb.ClassifyRequest]:
        """Return what to send now on the open call, the oldest first."""
        now = self._clock()
        indices = self._due(now) if self._link is not None else []
        for index in indices:
            item = self._items[index]
            item.sent = True
            item.request.timeout_ms = max(1, int((item.deadline - now) * 1000))
        self._unsent.difference_update(indices)
        return [self._items[index].request for index in indices]

    def receive(self, message: pb.ClassifyStreamResponse) -> None:
        """Take an answer, or that there is none; what is worth repeating becomes due again."""
        index = int(message.id) if message.id.isdecimal() else -1
        item = self._items.get(index)
        if item is None:
            return  # it expired here before it was answered, or was answered on the connection before this one
        address = self._link.address if self._link else ""
        if self._link:
            self._link.worked()
        if message.WhichOneof("result") == "response":
            self._settle(index, Streamed(index, answer=answer_of(message.response)))
            return
        error = of_message(message.error, address)
        item.failures += 1
        if isinstance(error, Unavailable):
            item.due = self._clock() + pause(item.failures)
        elif isinstance(error, Overloaded) and error.in_time:
            item.due = self._clock() + error.retry_after
        else:
            item.due = item.deadline
        if item.due >= item.deadline:
            self._settle(index, Streamed(index, error=error))
            return
        item.sent = False
        self._unsent.add(index)

    def lost(self, failure: SaccadeError | None) -> None:
        """Take note that the call ended; what it left unanswered is due again, on another link.

        Raises:
            SaccadeError: the failure, where another link would say the same.
        """
        link, self._link = self._link, None
        if self._pool.closed:
            raise Cancelled("the client was closed while the stream was open")
        now = self._clock()
        if isinstance(failure, Overloaded) and failure.in_time:
            self._open_at = now + failure.retry_after
        elif failure is None or isinstance(failure, Unavailable):
            if link is not None:
                link.failed(self._opened_at, now)
                _, rest = self._pool.next(now)
                self._open_at = now + rest
        else:
            raise failure
        for index, item in self._items.items():
            if item.sent:
                item.sent, item.due = False, now
                self._unsent.add(index)

    def expire(self) -> None:
        """Give up what nobody can answer in time any more; after all answers that came were received."""
        now = self._clock()
        for index in [index for index, item in self._items.items() if item.deadline <= now]:
            error = DeadlineExceeded(f"no answer within {self._seconds:g} s")
            self._settle(index, Streamed(index, error=error))

    def finished(self) -> list[Streamed]:
        """Return what can be given away."""
        given = list(self._finished)
        self._finished.clear()
        return given

    def wait(self) -> float | None:
        """Return the seconds after which something is to be done even if nothing comes; None for never."""
        if not self._items:
            return None
        soonest = min(item.deadline for item in self._items.values())
        if self._unsent:
            due = min(self._items[index].due for index in self._unsent)
            soonest = min(soonest, due if self._link is not None else max(due, self._open_at))
        return max(0.0, soonest - self._clock())

    def _due(self, now: float) -> list[int]:
        return sorted(index for index in self._unsent if self._items[index].due <= now)

    def _settle(self, index: int, streamed: Streamed) -> None:
        del self._items[index]
        self._unsent.discard(index)
        self._finish(streamed)

    def _finish(self, streamed: Streamed) -> None:
        if not self._ordered:
            self._finished.append(streamed)
            return
        self._early[streamed.index] = streamed
        while self._given in self._early:
            self._finished.append(self._early.pop(self._given))
            self._given += 1
