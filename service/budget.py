"""The pixels that are decoded at once: a budget that everybody waits for in turn. Standard library only."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import DeadlineExceeded


class PixelBudget:
    """Bounds the pixels that are decoded at once, and with them the memory that decoding takes.

    Places are given in the order of asking, so that small pictures never keep a large one waiting for ever. A picture
    that is larger than the whole budget is decoded alone.

    Args:
        limit: in pixels.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    @property
    def waiting(self) -> int:
        """How many pictures wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def reserve(self, pixels: int, deadline: float | None = None) -> Iterator[None]:
        """Hold so many pixels of the budget, as soon as it is this picture's turn.

        Args:
            pixels: of one picture.
            deadline: on `time.monotonic`; None for no deadline.

        Raises:
            DeadlineExceeded: its turn did not come before the deadline.
        """
        turn = threading.Lock()  # a lock for each that waits: a condition would wake all of them every time
        turn.acquire()
        with self._lock:
            self._waiting.append((pixels, turn))
            self._admit()
        left = threading.TIMEOUT_MAX if deadline is None else deadline - time.monotonic()
        if not turn.acquire(timeout=min(max(left, 0), threading.TIMEOUT_MAX)):
            with self._lock:
                if (pixels, turn) in self._waiting:
                    self._waiting.remove((pixels, turn))
                    self._admit()
                    raise DeadlineExceeded("the deadline passed before it was the picture's turn to be decoded")
        try:
            yield
        finally:
            with self._lock:
                self._taken -= pixels
                self._admit()

    def _admit(self) -> None:
        while self._waiting and (not self._taken or self._taken + self._waiting[0][0] <= self._limit):
            pixels, turn = self._waiting.popleft()
            self._taken += pixels
            turn.release()
