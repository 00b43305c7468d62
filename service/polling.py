"""Something done every so many seconds, on a thread of its own. Standard library only, but for the cores."""

import threading
from collections.abc import Callable

from service import cores, logs


class Polling:
    """Does `work` every so many seconds until it is stopped; what it raises is logged, and it is done again.

    Args:
        work: may take any time; the next round begins so many seconds after it.
        seconds: between the end of one round and the next; 0: never.
        name: of the thread.
    """

    def __init__(self, work: Callable[[], object], seconds: float, name: str) -> None:
        self._work = work
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        """Begin; the first round comes after `seconds`."""
        if self._seconds:
            self._thread.start()

    def stop(self) -> None:
        """Begin no more rounds. One that runs is not waited for, but the process does not end before it."""
        self._stopped.set()

    def _run(self) -> None:
        cores.unpin()  # whoever started this thread may be pinned, and what it starts would be slow
        while not self._stopped.wait(self._seconds):
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - one round that failed is no reason to look no more
                logs.failure("polling failed", error)
