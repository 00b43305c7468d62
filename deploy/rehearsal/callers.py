"""Callers that classify all the time, and what they saw."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

Call = Callable[[], None]
"""Makes one call; raises where it fails."""


@dataclass
class Seen:
    """What the callers of one kind saw; may be read while they call."""

    calls: int = 0
    slowest: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """How many calls failed."""
        return self.failures.total()


class Callers:
    """Threads that make one call after the other.

    Args:
        call: what each of them does.
        threads: how many.
        pause: seconds between two calls of a thread, so that the replicas are busy and not full.
    """

    def __init__(self, call: Call, *, threads: int, pause: float = 0.01) -> None:
        self.seen = Seen()
        self._call, self._pause = call, pause
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Seen:
        """Let every call under way end; return what was seen."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self.seen

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            started = time.monotonic()
            failure = ""
            try:
                self._call()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what is counted
                failure = f"{type(error).__name__}: {error}".splitlines()[0]
            seconds = time.monotonic() - started
            with self._lock:
                self.seen.calls += 1
                self.seen.slowest = max(self.seen.slowest, seconds)
                if failure:
                    self.seen.failures[failure] += 1
