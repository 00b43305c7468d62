import threading
import time
from collections.abc import Callable

import pytest

from service.rpc.deadlines import Deadlines
from tests.fakes import WAIT


class Told:
    """What was told, in order, and how many still have to be."""

    def __init__(self, count: int) -> None:
        self.numbers: list[int] = []
        self._count = count
        self._all = threading.Event()

    def of(self, number: int) -> Callable[[], None]:
        """Return what notes a number."""

        def note() -> None:
            self.numbers.append(number)
            if len(self.numbers) == self._count:
                self._all.set()

        return note

    def wait(self) -> list[int]:
        """Return the numbers when all are there."""
        assert self._all.wait(WAIT)
        return self.numbers


def test_told_in_order() -> None:
    """Deadlines are told in their order, whatever the order in which they came."""
    deadlines, told, now = Deadlines(), Told(3), time.monotonic()
    with deadlines._changed:  # none is told before all are there
        for number, after in ((2, 0.03), (0, 0.0), (1, 0.015)):
            deadlines.at(now + after, told.of(number))
    assert told.wait() == [0, 1, 2]


def test_a_sooner_one_wakes_the_thread() -> None:
    """A deadline that comes before all others is told in its time."""
    deadlines, told = Deadlines(), Told(1)
    deadlines.at(time.monotonic() + 3600, told.of(1))
    deadlines.at(time.monotonic(), told.of(0))
    assert told.wait() == [0]


def test_one_that_raises() -> None:
    """What is told may raise: the deadlines after it are told all the same."""
    deadlines, told = Deadlines(), Told(1)

    def fail() -> None:
        raise ZeroDivisionError

    deadlines.at(time.monotonic(), fail)
    deadlines.at(time.monotonic(), told.of(0))
    assert told.wait() == [0]


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the thread cannot be started that is raised, and it is started with the next deadline."""
    deadlines, told = Deadlines(), Told(1)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(threading.Thread, "start", start)
        deadlines.at(time.monotonic(), told.of(0))
    deadlines.at(time.monotonic(), told.of(1))
    assert told.wait() == [1]


def test_called_off() -> None:
    """One that was called off is not told, also twice, and keeps nothing of its callback."""
    deadlines, told, now = Deadlines(), Told(1), time.monotonic()
    with deadlines._changed:  # none is told before one is called off
        entry = deadlines.at(now + 0.01, told.of(0))
        deadlines.at(now + 0.02, told.of(1))
        entry.cancel()
        entry.cancel()
    assert entry.callback is None
    assert told.wait() == [1]


def test_the_dead_are_swept_out() -> None:
    """Of a hundred thousand that were called off few are left lying, and one that was not is still told."""
    deadlines, told = Deadlines(), Told(1)
    for _ in range(100_000):
        deadlines.at(time.monotonic() + 3600, told.of(0)).cancel()
    assert len(deadlines._heap) < 3000
    deadlines.at(time.monotonic(), told.of(1))
    assert told.wait() == [1]


def test_a_deadline_that_never_comes() -> None:
    """A deadline further off than a thread can wait keeps no other from being told."""
    deadlines, told, now = Deadlines(), Told(1), time.monotonic()
    deadlines.at(now + 9e12, told.of(1))
    deadlines.at(now + 0.01, told.of(0))
    assert told.wait() == [0]
