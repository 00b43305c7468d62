"""Stopping under load: no accepted call is lost, and nothing idle delays the end."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from service import image
from service.client import Client
from service.errors import SaccadeError
from service.server import Server
from tests.conftest import Connect, StartServer
from tests.fakes import WAIT
from tests.onnx_models import pictures

PICTURE = image.encode_png(pictures(1)[0])
CALLERS = 16
STOPS = 20


class Callers:
    """Threads that classify without pause until told to stop; keeps what failed.

    Args:
        connect: gives each thread the client that it asks now.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self.answered = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, calls: int) -> None:
        """Return when so many calls were answered from now on."""
        with self._changed:
            wanted = self.answered + calls
            assert self._changed.wait_for(lambda: self.answered >= wanted or self.failures, WAIT), (
                "no call was answered"
            )

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()

    def _call(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._connect().classify(PICTURE)
            except SaccadeError as failure:
                with self._changed:
                    self.failures.append(
                        f"after {time.monotonic() - started:.2f} s: {type(failure).__name__}: {failure}"
                    )
                    self._changed.notify_all()
                return
            with self._changed:
                self.answered += 1
                self._changed.notify_all()


def count(server: Server, code: str) -> float:
    """Return how many calls a server answered with a status."""
    labels = {"model": "linear", "method": "Classify", "code": code}
    return server.metrics.registry.get_sample_value("saccade_requests_total", labels) or 0.0


def test_no_call_fails_in_twenty_stops(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """Twenty servers drain in turn under sixteen callers, the next one in the client's list: no call fails."""
    server: Server = start_server(repository)
    successor: Server = start_server(repository)
    client = connect(server, successor)
    callers = Callers(lambda: client)
    for _ in range(STOPS):
        callers.wait_for(50)
        server.drain(delay=0)
        assert callers.failures == []
        assert count(server, "OK") > 0
        assert count(server, "CANCELLED") == count(server, "INTERNAL") == 0
        callers.wait_for(50)
        server, successor = successor, start_server(repository)
        client = connect(server, successor)
    callers.wait_for(50)
    callers.stop()
    assert callers.failures == []


def test_alone_it_answers_what_it_accepted(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A server that drains with no other to go to answers every accepted call, and then nothing but UNAVAILABLE."""
    server: Server = start_server(repository)
    client = connect(server, timeout=1.0)
    callers = Callers(lambda: client)
    callers.wait_for(100)
    server.drain(delay=0)
    callers.stop()
    assert count(server, "OK") == callers.answered
    assert callers.failures
    assert all("Unavailable" in failure or "DeadlineExceeded" in failure for failure in callers.failures)
