"""Runs the `saccade` command as its users do: as a process of its own."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.fakes import WAIT

SACCADE = [sys.executable, "-W", "error", "-m", "service.cli"]
ROOT = Path(__file__).parents[1]
"""Where `python -m tests...` finds what it is to run."""
LOADED = 3 * WAIT
"""Seconds for the next line of a log: two workers began to serve after 22 s on two cores that ten others wanted."""


def run(
    *arguments: str, cwd: Path | None = None, seconds: float = 60, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `saccade ARGUMENTS` to its end, with this besides in its environment; return what it printed and its code."""
    return subprocess.run(
        [*SACCADE, *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class ServerProcess:
    """`saccade serve` on free ports, of a repository or of the bundled models; its log lines are kept as objects.

    `command` is another command that ends as a server; `seconds` are what it may take until it is READY.
    """

    def __init__(
        self,
        repository: Path | None,
        *flags: str,
        cwd: Path | None = None,
        python: Path | None = None,
        module: str = SACCADE[-1],
        command: Sequence[str] = (),
        seconds: float = LOADED,
    ) -> None:
        words = [*command] or ["serve", "--host", "127.0.0.1", "--log-format", "json"]
        if not command:
            words += ["--repository", str(repository)] if repository else []
            words += ["--grpc-port", "0", "--metrics-port", "0", "--drain-delay", "0"]
        self.started = time.monotonic()
        arguments = [str(python or SACCADE[0]), *SACCADE[1:-1], module, *words, *flags]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=cwd)
        self.lines: list[dict[str, Any]] = []
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            ready = self.wait_for("ready", seconds)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.seconds_to_ready = time.monotonic() - self.started
        self.grpc_port, self.metrics_port = ready["grpc_port"], ready["metrics_port"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(WAIT)
        if self.process.stderr:
            self.process.stderr.close()

    @property
    def address(self) -> str:
        """Where its gRPC listens."""
        return f"127.0.0.1:{self.grpc_port}"

    def wait_for(self, event: str, seconds: float = LOADED) -> dict[str, Any]:
        """Return the log line of the next such event."""
        while True:
            entry = self._events.get(timeout=seconds)
            assert entry is not None, f"the server ended before {event!r}; its log: {self.lines}"
            if entry["event"] == event:
                return entry

    def workers(self) -> list[psutil.Process]:
        """Return the processes of those workers of `--workers` that listen, the oldest first."""
        children = sorted(psutil.Process(self.process.pid).children(), key=psutil.Process.create_time)
        return [each for each in children if any(it.status == "LISTEN" for it in each.net_connections("tcp"))]

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def _read(self) -> None:
        for line in self.process.stderr or ():
            entry = json.loads(line) if line.startswith("{") else {"event": "raw", "line": line}
            self.lines.append(entry)
            self._events.put(entry)
        self._events.put(None)


def mapped_files(pid: int) -> Sequence[str]:
    """Return the files that a process has mapped into its memory."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()
