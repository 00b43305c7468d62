"""On which connection a call is made, and again, until its deadline; nothing here waits or calls."""

import random
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Generic, TypeVar

from ..errors import Cancelled, DeadlineExceeded, Overloaded, SaccadeError, Unavailable

ChannelType = TypeVar("ChannelType")
Clock = Callable[[], float]

CLOSED = "the client is closed"
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0


def pause(failures: int) -> float:
    """Return the seconds to wait after so many failures, at least one, in a row; never the same for all callers."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10)) * random.uniform(0.8, 1.0)  # noqa: S311


class Link(Generic[ChannelType]):
    """One channel of a client, and how it fares.

    Args:
        address: where it leads.
        channel: gRPC's.
    """

    def __init__(self, address: str, channel: ChannelType) -> None:
        self.address = address
        self.channel = channel
        self.failures = 0
        self.rests_until = self.failed_at = float("-inf")

    def worked(self) -> None:
        """Take note that it answers."""
        if self.failures:
            self.failures = 0
            self.rests_until = float("-inf")

    def failed(self, began: float, now: float) -> None:
        """Let it rest, longer each time; calls that fail together, having begun before it failed, count once."""
        if began >= self.failed_at:
            self.failures += 1
            self.failed_at = now
            self.rests_until = now + pause(self.failures)


class Pool(Generic[ChannelType]):
    """The links of a client, taken in turn.

    Args:
        links: at least one.
    """

    def __init__(self, links: Sequence[Link[ChannelType]]) -> None:
        self.links = links
        self.closed = False
        self._turn = count()

    def next(self, now: float) -> tuple[Link[ChannelType], float]:
        """Return whose turn it is, and the seconds to wait first: 0 unless all of them rest.

        Raises:
            Cancelled: the client is closed.
        """
        if self.closed:
            raise Cancelled(CLOSED)
        first = next(self._turn) % len(self.links)
        for link in (*self.links[first:], *self.links[:first]):
            if link.rests_until <= now:
                return link, 0.0
        soonest = min(self.links, key=lambda link: link.rests_until)
        return soonest, max(0.0, soonest.rests_until - now)


class Attempts(Generic[ChannelType]):
    """The attempts of one call; classifying twice does no harm, so every call may be repeated.

    Wait `wait` seconds, call on `link` for at most `remaining()`, then say `worked` or `failed`; after a failure that
    `failed` does not raise, begin again.

    Args:
        pool: the client's.
        seconds: from now to the deadline.
        clock: time.monotonic, or a test's.

    Raises:
        DeadlineExceeded: there are none.
        Cancelled: the client is closed.
    """

    def __init__(self, pool: Pool[ChannelType], seconds: float, clock: Clock = time.monotonic) -> None:
        if seconds <= 0:  # gRPC might still send it
            raise DeadlineExceeded(f"no time was left when the call began (timeout {seconds:g} s)")
        self._pool = pool
        self._seconds = seconds
        self._clock = clock
        self._began = clock()
        self._deadline = self._began + seconds
        self._failures = 0
        self._last: SaccadeError | None = None
        self.link, _ = pool.next(self._began)
        self.wait = 0.0  # links that rest keep repeats waiting, not first attempts: one failing model is not a server

    def remaining(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self._deadline - self._clock())

    def worked(self) -> None:
        """Take note that the call was answered."""
        self.link.worked()

    def failed(self, failure: SaccadeError) -> None:
        """Choose when and where to try again.

        Raises:
            SaccadeError: the failure, where trying again is no use or there is no time left.
        """
        now = self._clock()
        if self._pool.closed:
            raise Cancelled("the client was closed while the call was under way")
        if isinstance(failure, Unavailable):
            self.link.failed(self._began, now)
            self._failures += 1
            rounds, within = divmod(self._failures, len(self._pool.links))
            wait = 0.0 if within else pause(rounds)
        elif isinstance(failure, Overloaded) and failure.in_time:
            wait = failure.retry_after
        elif isinstance(failure, DeadlineExceeded) and self._last is not None:
            if self._deadline - self._began < LONGEST_PAUSE:  # the last attempt had hardly a chance
                raise self._last
            raise DeadlineExceeded(f"no answer within {self._seconds:g} s; before that {self._last}")
        elif isinstance(failure, DeadlineExceeded):
            raise DeadlineExceeded(f"{failure} (timeout {self._seconds:g} s)")
        else:
            raise failure
        self._last = failure
        link, rest = self._pool.next(now)
        wait = max(wait, rest)
        if now + wait >= self._deadline:
            raise failure
        self.link, self.wait, self._began = link, wait, now + wait
