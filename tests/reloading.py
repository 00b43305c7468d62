"""Callers that never stop while the versions of a model come and go; what they met."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from service.client import Client
from tests.fakes import WAIT
from tests.onnx_models import pictures, write_model
from tests.processes import ServerProcess


@dataclass
class Met:
    """What callers met: answers by version, failures by text, seconds of each answered call and when it came."""

    versions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[tuple[float, float]] = field(default_factory=list)


class Callers:
    """So many callers of the only model of a server, each with a client of its own, until the block is left.

    Args:
        address: of the server.
        count: of the callers.
        pause: seconds between a caller's calls.
    """

    def __init__(self, address: str, count: int = 16, pause: float = 0.0) -> None:
        self.met = Met()
        self._stop = threading.Event()
        self._pause = pause
        self._threads = [threading.Thread(target=self._call, args=(address,)) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT)

    def _call(self, address: str) -> None:
        picture = pictures(1)[0]
        with Client(address) as client:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    self.met.versions[client.classify(picture).version] += 1
                except Exception as error:  # noqa: BLE001 - counted by those who wait for none
                    self.met.failures[repr(error)] += 1
                else:
                    now = time.monotonic()
                    self.met.seconds.append((now, now - started))
                self._stop.wait(self._pause)


def publish(repository: Path, version: int, *, wrong: bool = False) -> None:
    """Put a version of the model there by one rename, or over the one that is there; wrong: its self-test fails."""
    staging = repository / ".staging"
    path = write_model(staging, wrong_by=0.1 if wrong else 0.0)
    target = repository / "linear" / str(version)
    if target.exists():
        path.rename(target / "model.onnx")
    else:
        staging.rename(target)


def reload(server: ServerProcess, repository: Path, version: int, *, wrong: bool = False) -> None:
    """Publish a version and return when the server has loaded or refused it."""
    publish(repository, version, wrong=wrong)
    while server.wait_for("model failed" if wrong else "model ready")["version"] != version:
        pass
