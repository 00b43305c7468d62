"""A folder as the operating system tells of it. Standard library only."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One name in a folder, links followed.

    Attributes:
        name: in the folder.
        mode: as in `stat`.
        size: in bytes.
        modified: when its contents were changed, in nanoseconds, as whoever wrote it says.
        changed: when anything of it was changed, in nanoseconds.
        leads_to: where a link leads.
        error: why nothing is known of it but its name.
    """

    name: str
    mode: int = 0
    size: int = 0
    modified: int = 0
    changed: int = 0
    leads_to: str = ""
    error: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether there may be something in it."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file."""
        return stat.S_ISREG(self.mode)

    def leads_out(self, root: Path) -> bool:
        """Return whether it is a link to somewhere else than into `root`."""
        return bool(self.leads_to) and not Path(self.leads_to).is_relative_to(root)


Read = Callable[[Path], list[Entry]]
"""Lists a folder; raises OSError."""


def read_folder(folder: Path) -> list[Entry]:
    """Return what is in a folder, by name; links that lead nowhere are not there.

    Raises:
        OSError: it cannot be read.
    """
    entries = []
    with os.scandir(folder) as found:
        for each in found:
            try:
                status = each.stat()
            except FileNotFoundError:
                continue  # or it has gone since
            except OSError as error:  # a link in a circle, or to where nobody may go; a network's stale handle
                entries.append(Entry(each.name, error=why(error)))
                continue
            leads_to = os.path.realpath(each.path) if each.is_symlink() else ""
            times = status.st_mtime_ns, status.st_ctime_ns
            entries.append(Entry(each.name, status.st_mode, status.st_size, *times, leads_to))
    return sorted(entries)


def why(error: OSError) -> str:
    """Return what an operator should read of an error."""
    return error.strerror or str(error)
