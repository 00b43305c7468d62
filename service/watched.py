"""Files that are read again when they change. Standard library only."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

from service import logs
from service.errors import SetupError

Value = TypeVar("Value")

SECONDS = 1.0
"""Between two looks at the files: what changed is in force after two to three of them."""

Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]


class Watched(Generic[Value]):
    """What was made of some files; made anew when they changed and two looks agree: nothing half-written counts.

    Args:
        name: what the files are, for the log.
        paths: the files.
        make: reads them; raises SetupError where they are not what they should be.

    Raises:
        SetupError: what `make` raises the first time; later, what was there before stays and the log says why, once.
    """

    def __init__(self, name: str, paths: Sequence[Path], make: Callable[[], Value]) -> None:
        self._name = name
        self._paths = paths
        self._make = make
        self._seen = self._taken = self._stamp()
        self._told = ""  # why what changed cannot be used
        self.value = make()

    def look(self) -> None:
        """Look once."""
        stamp = self._stamp()
        agreed, self._seen = stamp == self._seen, stamp
        if stamp == self._taken or not agreed:
            return
        try:
            value = self._make()
        except SetupError as error:  # tried again: it may be for want of a file descriptor
            if str(error) != self._told:
                logs.warning(f"{self._name} changed and cannot be used; the old ones stay", reason=str(error))
            self._told = str(error)
            return
        self._taken, self._told = stamp, ""
        if value != self.value:
            self.value = value
            logs.info(f"{self._name} read again")

    def _stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


class _Looks(Protocol):
    def look(self) -> None:
        """Look once."""


class Watch:
    """A thread that looks at files once a second; there is none while there is nothing to look at.

    Args:
        seconds: between two looks.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._files: list[_Looks] = []
        self._over = threading.Event()

    def add(self, files: _Looks) -> None:
        """Look at these too, from `start` on."""
        self._files.append(files)

    def start(self) -> None:
        """Begin."""
        if self._files:
            threading.Thread(target=self._run, name="files", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            for files in self._files:
                files.look()


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino  # chmod changes no more than the ctime
