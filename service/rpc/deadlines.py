"""Deadlines that a message gives itself, which gRPC does not know of: one thread that tells when they pass."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from service import logs

_FEW = 1024
"""Dead entries that are let lie: a message that is answered leaves its entry behind until then."""


class Deadlines:
    """Calls back when a moment has passed, unless that was called off. The thread starts when it is first needed."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._dead = 0
        self._thread: threading.Thread | None = None

    def at(self, deadline: float, callback: Callable[[], None]) -> "Entry":
        """Call back, on the thread of these deadlines, when `deadline` on `time.monotonic` has passed.

        Raises:
            RuntimeError: there is no thread to be had; it is not watched.
        """
        entry = Entry(self, callback)
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                thread.start()
                self._thread = thread
            heapq.heappush(self._heap, (deadline, next(self._numbers), entry))
            if self._heap[0][2] is entry:
                self._changed.notify()
        return entry

    def _watch(self) -> None:
        while True:
            with self._changed:
                left = self._heap[0][0] - time.monotonic() if self._heap else None
                if left is None or left > 0:
                    self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                    continue
                callback, self._heap[0][2].callback = self._heap[0][2].callback, None
                self._dead -= callback is None
                heapq.heappop(self._heap)
            if callback is not None:
                try:
                    callback()
                except Exception as error:  # noqa: BLE001 - the others' deadlines pass all the same
                    logs.bounded_failure("a deadline that passed could not be told", error)

    def _one_dead(self) -> None:
        with self._changed:
            self._dead += 1
            if self._dead > _FEW and 2 * self._dead > len(self._heap):
                self._heap = [item for item in self._heap if item[2].callback is not None]
                heapq.heapify(self._heap)
                self._dead = 0


class Entry:
    """One deadline that is watched."""

    __slots__ = ("_deadlines", "callback")

    def __init__(self, deadlines: Deadlines, callback: Callable[[], None]) -> None:
        self._deadlines = deadlines
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Call it off."""
        if self.callback is not None:
            self.callback = None
            self._deadlines._one_dead()
