"""An event loop whose time does not pass but jumps to the next timer, so that seconds of load take none."""

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.sender import Ended, Sender

Value = TypeVar("Value")


class _NoWaiting(selectors.SelectSelector):
    """Says at once that nothing happened, and passes the time that it would have waited."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen"
        pass_time(max(0.0, timeout))
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(_NoWaiting())
        self.now = 1000.0

    def time(self) -> float:
        return self.now


def pass_time(seconds: float) -> None:
    """Let time pass on the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    loop.now += seconds


def run(work: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """Run a coroutine to its end on such a loop."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work())


class FakeWire:
    """A server that works off one call after the other.

    Args:
        service: seconds that each takes.
        stall: (moment, seconds) since it was opened, in which nothing begins.
        capacity: most that may wait; the others are refused.
    """

    def __init__(self, service: float, stall: tuple[float, float] = (0.0, 0.0), capacity: int = 1_000_000) -> None:
        self._service, self._stall, self._capacity = service, stall, capacity
        self._free = 0.0
        self.sent = list[float]()
        self.silent = False

    async def open(self) -> None:
        """Note the beginning."""
        self._loop = asyncio.get_running_loop()
        self.opened = self._free = self._loop.time()

    def send(self, timeout: float | None, ended: Ended) -> None:
        """Answer when all that came before are answered."""
        now = self._loop.time()
        self.sent.append(now - self.opened)
        if self.silent:
            return
        if self._free - now > self._capacity * self._service:
            self._loop.call_later(0.0, ended, "RESOURCE_EXHAUSTED", "queue full")
            return
        begins = max(now, self._free)
        moment, seconds = self._stall
        if moment <= begins - self.opened < moment + seconds:
            begins = self.opened + moment + seconds
        self._free = begins + self._service
        self._loop.call_at(self._free, ended, "OK", "")

    async def close(self) -> None:
        """Do nothing."""


class ParallelWire(FakeWire):
    """A server that works off many calls at a time.

    Args:
        service: seconds that each takes.
        places: how many at a time.
    """

    def __init__(self, service: float, places: int) -> None:
        super().__init__(service)
        self._places = [0.0] * places

    def send(self, timeout: float | None, ended: Ended) -> None:
        """Answer when a place was free and the call was worked off in it."""
        ends = max(self._loop.time(), self._places[0]) + self._service
        heapq.heapreplace(self._places, ends)
        self._loop.call_at(ends, ended, "OK", "")


def measure(load: Load, wire: FakeWire, then: Callable[[Sender], object] = lambda _: None) -> Outcome:
    """Send a load to a fake in no time; `then` is told of the sender first."""

    async def work() -> Outcome:
        await wire.open()
        sender = Sender(load, wire)
        then(sender)
        return await sender.run()

    return run(work)
