"""The signals that ask a process to stop. Standard library only."""

import signal
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from types import FrameType


class StopSignals:
    """Tells what asks the process to stop; once a signal came, the next ends the process at once.

    A queue in C, because its `put` may interrupt its own `get`: an Event's lock is held for a moment before it waits,
    and a handler that came just then waited for that lock for ever.

    Args:
        numbers: the signals.
        last: called before a second signal ends the process.

    Attributes:
        first: called in the handler of the first signal: it may do no more than say so. May be changed at any time.
    """

    def __init__(
        self,
        numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
        last: Callable[[], None] | None = None,
    ) -> None:
        self._numbers = numbers
        self._last = last
        self.first: Callable[[], None] = lambda: None
        self._received: SimpleQueue[int] = SimpleQueue()

    def listen(self) -> None:
        """Take the signals; only the main thread may."""
        for number in self._numbers:
            signal.signal(number, self._receive)

    def put(self, number: int) -> None:
        """Ask to stop as that signal would; any thread may."""
        self._received.put(number)

    def wait(self) -> int:
        """Return the first signal that came."""
        return self._received.get()

    def came(self) -> int | None:
        """Return a signal that came, if any did."""
        return None if self._received.empty() else self._received.get()

    def _receive(self, number: int, _: FrameType | None) -> None:
        for each in self._numbers:
            signal.signal(each, self._end if self._last else signal.SIG_DFL)
        self.first()
        self._received.put(number)

    def _end(self, number: int, _: FrameType | None) -> None:
        for each in self._numbers:
            signal.signal(each, signal.SIG_DFL)
        if self._last is not None:
            self._last()
        signal.raise_signal(number)
