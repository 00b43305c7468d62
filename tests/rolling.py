"""A rolling restart under load: servers that stop and start again on their ports while callers go on."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes import WAIT
from tests.processes import ServerProcess


@dataclass
class Tally:
    """What one kind of caller saw: calls answered, and failed ones by their text."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class Callers:
    """Threads that call without pause until told to stop, whatever fails.

    Args:
        call: one call; what it raises is counted.
        threads: how many at once.
    """

    def __init__(self, call: Callable[[], object], threads: int) -> None:
        self._call = call
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self.tally = Tally()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, calls: int) -> None:
        """Return when so many calls were answered from now on."""
        with self._changed:
            wanted = self.tally.answered + calls
            assert self._changed.wait_for(lambda: self.tally.answered >= wanted, WAIT), f"no answers: {self.tally}"

    def stop(self) -> Tally:
        """End the threads and return what they saw."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT)
        return self.tally

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._call()
            except Exception as error:  # noqa: BLE001 - to be counted
                with self._changed:
                    self.tally.failed[f"{type(error).__name__}: {error}"[:160]] += 1
                time.sleep(0.001)  # a refusal must not starve the answers of the processor
                continue
            with self._changed:
                self.tally.answered += 1
                self._changed.notify_all()


class Servers:
    """Server processes that can be started again on the ports that they had.

    Args:
        count: how many.
        repository: what they serve; None for the bundled model.
    """

    def __init__(self, count: int, repository: Path | None = None) -> None:
        self._repository = repository
        with ExitStack() as started:  # where one of them does not start, those before it end
            self._running = [started.enter_context(ServerProcess(repository)) for _ in range(count)]
            started.pop_all()

    @property
    def addresses(self) -> Sequence[str]:
        """Where they listen, always."""
        return [server.address for server in self._running]

    def restart(self, number: int) -> None:
        """Drain one by SIGTERM and start it again on its port."""
        old = self._running[number]
        old.terminate()
        assert old.process.wait(WAIT) == 0
        old.__exit__(None, None, None)
        self._running[number] = self._started_on(old.grpc_port)

    def _started_on(self, port: int) -> ServerProcess:
        """Start one on a port that was free: a connection that a caller tried meanwhile may have it for a moment."""
        late = time.monotonic() + WAIT
        while True:
            try:
                return ServerProcess(self._repository, "--grpc-port", str(port))
            except AssertionError as error:
                if "cannot be had" not in str(error) or time.monotonic() > late:
                    raise

    def close(self) -> None:
        """End all."""
        for server in self._running:
            server.__exit__(None, None, None)
