"""A server's process and all below it: started, watched in /proc, and ended for certain."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_SET_CHILD_SUBREAPER = 36
_POLITE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_LINES = 3


def adopt_orphans() -> None:
    """Let processes whose parent dies become this process's children: so a server's daemons can be found and ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Tree:
    """A command and every process that comes of it; one at a time, as whatever is new below this process is its.

    Args:
        command: what to start.
        folder: where it runs; its output goes into the file `output`.
        variables: of its environment, beside this process's own.
    """

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        self._others = _below()
        self._log = folder / "output"
        self.started = time.monotonic()
        with self._log.open("wb") as log:
            self._root = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def alive(self) -> bool:
        """Whether the process that was started runs."""
        return self._root.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return those that there are now."""
        return [process for process in _below() if process not in self._others]

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes that there are, and of those that their parents have waited for."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_mb(self) -> float:
        """Return the memory of all processes; a page that several share is divided among them (PSS)."""
        total = 0
        for process in self.processes():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 1e6

    def last_words(self) -> str:
        """Return the end of what it printed."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
        return " / ".join([line for line in lines if line][-_LINES:]) or "it printed nothing"

    def end(self) -> None:
        """End it: SIGTERM to the first, a while later SIGKILL to all, until none is left."""
        if self.alive:
            self._root.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._root.wait(_POLITE)
        while left := self.processes():
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, _POLITE)
        self._root.wait()


def _below() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
