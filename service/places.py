"""Workers' processes as their supervisor has them, and the places that they take: what it knows of each."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Protocol

from service import metrics
from service.config import Settings
from service.control import Ping

BEAT = 1.0
"""Seconds from one question whether a worker lives to the next."""
_SILENT, _SILENT_LOADING = 10, 120
"""Questions after which one that does not answer hangs: a full second of silence was measured where a model of 100 MB
was loaded on cores ten times overloaded, since ONNX Runtime holds the interpreter for a part of that. They are counted,
not the seconds: a machine that stood still does not make all workers hang. Those during which one that loads
computed do not count: a library that builds an engine may hold the interpreter for as long as that takes, and whoever
is killed for it would begin anew for ever."""
_UTIME, _STIME = 11, 12
"""Where /proc/PID/stat has the two kinds of CPU time, after the name."""
_YOUNG = 1.0
"""Seconds: a worker that ends sooner after it began to listen, or before, is put off: it may be the start of a loop."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_DOUBLINGS = 10
"""Most that the pause is doubled: more than enough for the longest, and no float can be made of a thousand."""
_END_SECONDS = 5.0
"""Most that a process may take to end after its pipe did."""


class Process(Protocol):
    """What is needed of a worker's process; subprocess.Popen is one."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    def wait(self, timeout: float | None = None) -> int: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102


Spawn = Callable[[Path], tuple[Process, Connection]]
"""Starts a process that becomes a worker when it is sent its Start, given the folder of the metrics; returns it and
this side of the pipe to it. Raises OSError where the system has no process, memory or descriptors to give."""


@dataclass(eq=False)
class Running:
    """A process that is a worker, or the stand-by that will be one and has no number yet.

    Attributes:
        cpu: see `cpu_ticks`.
        prepared: it has said something: its modules are imported.
        loading: a version is being loaded.
        silent: how often in a row it was asked whether it lives and had not answered, nor computed while it loads.
        hung: it was killed for that.
    """

    process: Process
    pipe: Connection
    cpu: Callable[[int], int]
    number: int | None = None
    prepared: bool = False
    loading: bool = False
    loaded: bool = False
    ready: bool = False
    told_to_listen: bool = False
    listens_since: float | None = None
    models: tuple[str, ...] = ()
    hung: bool = False
    silent: int = 0
    _asked: bool = False
    _computed: int = 0

    def send(self, message: object) -> None:
        """Tell it something; if it is gone, the end of its pipe says so next."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def beat(self) -> None:
        """Ask whether it lives, or note that it has not answered yet."""
        before, self._computed = self._computed, self.cpu(self.process.pid)
        if not self._asked:
            self._asked = True
            self.send(Ping())
        elif not self._loads or self._computed == before:
            self.silent += 1

    def heard(self, *, answer: bool) -> None:
        """Note that it said something: the answer to `beat`, or anything else."""
        self.silent = 0
        self._asked = self._asked and not answer
        self.prepared = True

    def hangs(self) -> bool:
        """Return whether it has not answered for so long that it never will."""
        return self.silent >= (_SILENT_LOADING if self._loads else _SILENT)

    @property
    def _loads(self) -> bool:
        """Whether it loads a version, or still its modules."""
        return self.loading or not self.prepared

    def reap(self) -> int:
        """Return the exit code of a process whose pipe has ended; one that does not end is killed."""
        self.pipe.close()
        try:
            return self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@dataclass
class Place:
    """One worker's place, whoever has it."""

    settings: Settings
    worker: Running | None = None
    start_at: float = 0.0
    _ended_young: int = 0

    def ended(self, now: float) -> float:
        """Free the place; return how many seconds it stays so: longer and longer where nobody comes to serve."""
        worker, self.worker = self.worker, None
        since = None if worker is None else worker.listens_since
        young = since is None or now - since < _YOUNG
        self._ended_young = self._ended_young + 1 if young else 0
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._ended_young - 1, _DOUBLINGS)) if young else 0.0
        self.start_at = now + pause
        return pause


def spawn(folder: Path) -> tuple[Process, Connection]:
    """Start a worker in a process of its own, which has nothing of this one but one end of a pipe.

    A fork would take gRPC's and ONNX Runtime's threads half along. It is in a process group of its own, so that Ctrl-C
    reaches the supervisor only; and it finds its modules where this process found them, whatever lies in the folder.
    """
    here, there = Pipe()
    code = f"import sys; sys.path[:] = {sys.path!r}; from service.worker import main; main({there.fileno()})"
    with there:
        process = subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            process_group=0,
            env={**os.environ, metrics.FOLDER: str(folder)},
        )
    return process, here


def cpu_ticks(process: int) -> int:
    """Return the CPU time that a process has used, in ticks of the system's clock; 0 where that cannot be known."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it is gone, or the system has no such files
        return 0
    return int(after_name[_UTIME]) + int(after_name[_STIME])


def how(code: int) -> str:
    """Return how a process ended, for people."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"
