"""What one stream has under way: ids, deadlines, order, what is sent again elsewhere; nothing here waits or calls."""

import time
from collections import deque
from itertools import takewhile
from typing import Generic

from ..connection import Connection
from ..errors import Cancelled, DeadlineExceeded, InvalidInput, Overloaded, SaccadeError, Unavailable
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .answers import Streamed, answer_of
from .attempts import CLOSED, LONGEST_PAUSE, ChannelType, Clock, Link, Pool, pause
from .failures import of_message
from .pictures import serialized
from .policy import several_servers

ENDED = "the client was closed while the stream was open"
WINDOW = 64
"""Items under way where the caller says nothing, and most that are sent and unanswered: servers read no more of one
stream."""


class OpenCall(Generic[ChannelType]):
    """One call of a stream, and which items it was given and has not answered, whether still waited for or not.

    Args:
        link: that it is open on.
        now: when it was opened.
    """

    __slots__ = ("link", "opened_at", "unanswered")

    def __init__(self, link: Link[ChannelType], now: float) -> None:
        self.link = link
        self.opened_at = now
        self.unanswered: set[int] = set()


class _Item(Generic[ChannelType]):
    """One item that is not answered yet."""

    __slots__ = ("call", "deadline", "due", "failure", "failures", "request")

    def __init__(self, request: pb.ClassifyRequest, now: float, seconds: float) -> None:
        self.request = request
        self.deadline = now + seconds
        self.due = now  # when it may be sent
        self.call: OpenCall[ChannelType] | None = None  # that it was given to
        self.failures = 0
        self.failure: SaccadeError | None = None  # the last


class Exchange(Generic[ChannelType]):
    """The state of one stream, over however many connections it takes.

    Drive it so: `take` what the iterable gives; open a call where `call_to_open` says so; put what `due` returns into
    its outbox, and from there send what `to_send` makes of it, or say `skipped`; tell `receive` and `lost` what came,
    then `expire`; send no more on a call that `receive` says is left, and say `skipped` of what is in its outbox; give
    away what `give` returns, one at a time; sleep for at most `wait` seconds.

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
        self._elsewhere = len(pool.links) > 1 or several_servers(connection)  # whether another call is another server's
        self._seconds = seconds
        self._ordered = ordered
        self._clock = clock
        self._items: dict[int, _Item[ChannelType]] = {}  # as they were taken, so the first to expire first
        self._unsent: set[int] = set()
        self._taken = self._given = 0
        self._finished: deque[Streamed] = deque()
        self._early: dict[int, Streamed] = {}
        self._call: OpenCall[ChannelType] | None = None
        self._open_at = float("-inf")
        self._failure: SaccadeError | None = None  # of a call, since the last answer

    @property
    def idle(self) -> bool:
        """Whether all that was taken was answered and given away."""
        return not self._items and not self._finished and not self._early

    def begin(self) -> None:
        """Begin.

        Raises:
            Cancelled: the client is closed.
        """
        if self._pool.closed:
            raise Cancelled(CLOSED)

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

    def call_to_open(self) -> OpenCall[ChannelType] | None:
        """Return the call to open now; None while one is open, is not needed, or must wait.

        Raises:
            Cancelled: the client is closed.
        """
        now = self._clock()
        if self._call is not None or now < self._open_at or not self._due(now):
            return None
        link, _ = self._pool.next(now)
        self._call = OpenCall(link, now)
        return self._call

    def due(self) -> list[int]:
        """Return what to put into the outbox of the open call now, the oldest first, as far as the call has room."""
        if self._call is None or not self._room():
            return []
        indices = self._due(self._clock())[: self._room()]
        for index in indices:
            self._items[index].call = self._call
        self._call.unanswered.update(indices)
        self._unsent.difference_update(indices)
        return indices

    def to_send(self, index: int) -> pb.ClassifyRequest | None:
        """Return what to send of what comes out of an outbox; None if it is not waited for. From any thread."""
        item = self._items.get(index)
        seconds = item.deadline - self._clock() if item else 0.0
        if item is None or seconds <= 0:
            return None
        item.request.timeout_ms = max(1, int(seconds * 1000))
        return item.request

    def skipped(self, call: OpenCall[ChannelType], index: int) -> None:
        """Take note that what came out of the outbox of a call was not sent; it is due again, if it is waited for."""
        call.unanswered.discard(index)
        item = self._items.get(index)
        if item is not None and item.call is call:
            self._again(index, item, self._clock())

    def receive(self, call: OpenCall[ChannelType], message: pb.ClassifyStreamResponse) -> bool:
        """Take an answer, or that there is none; what is worth repeating becomes due again.

        Returns:
            Whether the call is left: its server does not answer, another one may. What it was sent it may still answer.

        Raises:
            Cancelled: the client is closed.
        """
        index = int(message.id) if message.id.isdecimal() else -1
        call.unanswered.discard(index)
        item = self._items.get(index)
        if item is None or item.call is not call:
            return False  # it expired here before it was answered, or was answered on the connection before this one
        if message.WhichOneof("result") == "response":
            self._worked(call)
            self._settle(index, Streamed(index, answer=answer_of(message.response)))
            return False
        error = of_message(message.error, call.link.address)
        now = self._clock()
        left = isinstance(error, Unavailable) and self._elsewhere and call is self._call
        item.failures += 1
        if isinstance(error, Unavailable):
            rounds, within = divmod(item.failures, len(self._pool.links))
            due = now if within else now + pause(rounds)
        else:
            self._worked(call)
            due = now + error.retry_after if isinstance(error, Overloaded) and error.in_time else item.deadline
        if due < item.deadline:
            item.failure = error
            self._again(index, item, due)
        else:
            self._settle(index, Streamed(index, error=error))
        if left:
            self._leave(call, error, now)
        return left

    def lost(self, call: OpenCall[ChannelType], failure: SaccadeError | None) -> None:
        """Take note that a call ended; what it left unanswered is due again, on another link.

        Raises:
            SaccadeError: the failure, where another link would say the same.
        """
        if self._pool.closed:
            raise Cancelled(ENDED)
        now = self._clock()
        refused = isinstance(failure, Overloaded) and failure.in_time
        if not (failure is None or isinstance(failure, Unavailable) or refused):
            raise failure
        if call is self._call and isinstance(failure, Overloaded):
            self._call, self._failure, self._open_at = None, failure, now + failure.retry_after
        elif call is self._call:
            self._leave(call, failure, now)
        for index, item in self._items.items():
            if item.call is call:
                item.failure = failure or item.failure
                self._again(index, item, now)

    def expire(self) -> None:
        """Give up what nobody can answer in time any more; after all answers that came were received."""
        now = self._clock()
        for index in list(takewhile(lambda index: self._items[index].deadline <= now, self._items)):
            self._settle(index, Streamed(index, error=self._too_late(self._items[index])))

    def give(self) -> Streamed | None:
        """Return what is to be given away next; None while there is nothing."""
        return self._finished.popleft() if self._finished else None

    def rest(self) -> list[Streamed]:
        """Return what was answered of a stream that has failed, in order if that was asked for, with gaps."""
        given = [*self._finished, *(self._early[index] for index in sorted(self._early))]
        self._finished.clear()
        self._early.clear()
        return given

    def wait(self) -> float | None:
        """Return the seconds after which something is to be done even if nothing comes; None for never."""
        if not self._items:
            return None
        soonest = next(iter(self._items.values())).deadline
        if self._unsent and self._room():
            due = min(self._items[index].due for index in self._unsent)
            soonest = min(soonest, due if self._call is not None else max(due, self._open_at))
        return max(0.0, soonest - self._clock())

    def _due(self, now: float) -> list[int]:
        return sorted(index for index in self._unsent if self._items[index].due <= now)

    def _room(self) -> int:
        """Return how many items a call may be given: what a server does not read at once, it reads too late."""
        return WINDOW - len(self._call.unanswered) if self._call is not None else WINDOW

    def _worked(self, call: OpenCall[ChannelType]) -> None:
        if call is self._call:  # one that was left may answer what it has, and take nothing new
            call.link.worked()
            self._failure = None

    def _too_late(self, item: _Item[ChannelType]) -> SaccadeError:
        """Return why there is no answer, as Attempts.failed says it of a call."""
        text, last = f"no answer within {self._seconds:g} s", item.failure or self._failure
        if last is None:
            return DeadlineExceeded(text)
        if item.call is None or item.deadline - item.due < LONGEST_PAUSE:  # the last attempt had hardly a chance
            return last
        return DeadlineExceeded(f"{text}; before that {last}")

    def _leave(self, call: OpenCall[ChannelType], failure: SaccadeError | None, now: float) -> None:
        """Give the open call nothing more; the next is opened as soon as a link does not rest."""
        self._call, self._failure = None, failure or self._failure
        call.link.failed(call.opened_at, now)
        _, rest = self._pool.next(now)
        self._open_at = now + rest

    def _again(self, index: int, item: _Item[ChannelType], due: float) -> None:
        item.call, item.due = None, due
        self._unsent.add(index)

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
