"""What lies in a model repository, look by look: the files of every version, and what two looks agree on.

Copies and object-store syncs do not rename: files grow, and appear one after the other. So a version counts as there,
changed or gone only when two looks saw the same names, sizes and times. The time of the contents is not enough:
`cp -p`, rsync and reproducible builds set it, and networks of one architecture have one size. Nobody sets the time of
the inode; but `chown` changes it, which Kubernetes does to a volume for each pod that mounts it. So what is served, and
alike in all but the times of inodes, is loaded anew only where its contents are others.

Links are followed where they stay inside the repository (Kubernetes' volumes are made of them); names that begin with a
dot are left out, which are those of copies under way (rsync, `saccade export`) and of Kubernetes' own folders.

No look makes it safe to overwrite external weight files in place where ONNX Runtime maps them: the answers of a session
that runs change at once, and a file cut short kills the process. So the CPU's sessions get them in memory (see
service.session.opening); for other providers only a new version's folder is the place for them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from service.folders import Entry, Read, read_folder, why

FILE = "model.onnx"
RESERVED = "liveness"
"""A health service of its own, so no model may be called so."""
MAX_FILES = 2000
"""In a version's folder; a model may name 1,000 files of weights."""
MAX_DEPTH = 8
"""Of folders in a version's folder: a link may lead round in a circle."""

_LOST = "lost+found"  # at the root of every ext4 volume, and unreadable
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_OUT = "is a link out of the repository; copy it there, or mount what it leads to"


class File(NamedTuple):
    """One file of a version: its place in the version's folder, and what `Entry` says of it."""

    place: str
    size: int
    modified: int
    changed: int


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one version.

    Attributes:
        entries: all of them, by place.
        refused: why they may not be loaded, whatever is in them.
        unreadable: they are refused because they could not be looked at, and may be what they were.
    """

    entries: tuple[File, ...] = ()
    refused: str = ""
    unreadable: bool = False

    def alike(self, other: "Files") -> bool:
        """Return whether nothing but the times of inodes is not as in another look."""
        return [file[:3] for file in self.entries] == [file[:3] for file in other.entries] and not other.refused

    def differing(self, other: "Files") -> list[str]:
        """Return the places of what is not as in another look."""
        return sorted({file.place for file in {*self.entries} ^ {*other.entries}})


NO_FILES = Files()
Found = Mapping[int, Files]
"""The versions of one model."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        models: the versions of every model; none in a folder without.
        unreadable: models that could not be read, and why: they may have any versions.
        refused: folders that cannot be models, and why.
    """

    models: Mapping[str, Found] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def is_name(name: str) -> bool:
    """Return whether a model may be called so."""
    return bool(_NAME.fullmatch(name)) and name != RESERVED


def is_version(name: str) -> bool:
    """Return whether a version may be called so."""
    return bool(_VERSION.fullmatch(name))


def look(root: Path, read: Read = read_folder) -> Look:
    """Return what is in a repository now.

    Args:
        root: the repository, its own links resolved.
        read: lists a folder.

    Raises:
        OSError: it cannot be read.
    """
    models: dict[str, Found] = {}
    unreadable: dict[str, str] = {}
    refused: dict[str, str] = {}
    for entry in read(root):
        name = entry.name
        if not (entry.is_folder or entry.error) or name.startswith(".") or name == _LOST:
            continue
        if not is_name(name):
            refused[name] = f"a model cannot be called {name!r}; use letters, digits, '.', '_' and '-'"
        elif entry.leads_out(root):
            refused[name] = f"{name} {_OUT}"
        elif entry.error:
            unreadable[name] = f"it cannot be read: {entry.error}"
        else:
            try:
                models[name] = _versions(root / name, root, read)
            except OSError as error:
                unreadable[name] = f"it cannot be read: {why(error)}"
    return Look(models, unreadable, refused)


def look_at(root: Path, name: str, read: Read = read_folder) -> Found:
    """Return the versions of one model that are there now; none where the name is no name of a model in `root`.

    Raises:
        OSError: it cannot be read.
    """
    if not is_name(name) or not any(
        entry.name == name and entry.is_folder and not entry.leads_out(root) for entry in read(root)
    ):
        return {}
    return _versions(root / name, root, read)


def agreed(before: Look, now: Look, known: Mapping[str, Found]) -> dict[str, Found | None]:
    """Return what the versions of each model are by two looks; None where its folder is gone.

    Args:
        before: the look before.
        now: the last look.
        known: what was loaded, or tried, until now; what two looks do not agree on stays so.
    """
    found: dict[str, Found | None] = {}
    for name in sorted({*before.models, *now.models, *known}):
        if any(name in each.unreadable or name in each.refused for each in (before, now)):
            continue
        first, second = before.models.get(name), now.models.get(name)
        if first is not None and second is not None:
            found[name] = dict(_settled(first, second, known.get(name, {})))
        elif first is None and second is None:
            found[name] = None
    return found


def _settled(before: Found, now: Found, known: Found) -> Iterator[tuple[int, Files]]:
    for number in {*before, *now, *known}:
        first, second = before.get(number), now.get(number)
        if number in known and (first != second or (second is not None and second.unreadable)):
            yield number, known[number]
        elif first == second and second is not None:
            yield number, second


def unread(now: Look, known: Mapping[str, Found]) -> dict[str, str]:
    """Return the folders of versions that were loaded before and cannot be read now, and why."""
    return {
        f"{name}/{number}": files.refused
        for name, found in now.models.items()
        for number, files in found.items()
        if files.unreadable and not known.get(name, {}).get(number, files).refused
    }


def _versions(folder: Path, root: Path, read: Read) -> Found:
    found = {}
    for entry in read(folder):
        if is_version(entry.name) and (entry.is_folder or entry.error):
            files = _version(folder, entry, root, read)
            if files.refused or any(file.place == FILE for file in files.entries):
                found[int(entry.name)] = files
    return found


def _version(model: Path, version: Entry, root: Path, read: Read) -> Files:
    """Return the files of a version, or why they are refused."""
    if version.leads_out(root):
        return Files(refused=f"its folder {_OUT}")
    if version.error:
        return _unreadable("its folder", version.error)
    try:
        return _files(model / version.name, root, read)
    except FileNotFoundError:
        return NO_FILES  # it has gone since
    except OSError as error:
        return _unreadable("its folder", why(error))


def _files(version: Path, root: Path, read: Read) -> Files:
    """Return the files of a version, those in folders of its folder too."""
    entries: list[File] = []
    folders = [""]
    while folders:
        within = folders.pop()
        for entry in read(version / within):
            if entry.name.startswith("."):
                continue
            place = f"{within}{entry.name}"
            if entry.error:
                return _unreadable(place, entry.error)
            if entry.leads_out(root):
                return Files(refused=f"{place} {_OUT}")
            if entry.is_folder:
                folders.append(f"{place}/")
            elif not entry.is_file:
                return Files(refused=f"{place} is no plain file, but a device, a pipe or a socket")
            else:
                entries.append(File(place, entry.size, entry.modified, entry.changed))
            if len(entries) + len(folders) > MAX_FILES or place.count("/") > MAX_DEPTH:
                return Files(refused=f"its folder holds more than {MAX_FILES:,} files, or folders {MAX_DEPTH} deep")
    return Files(tuple(sorted(entries)))


def _unreadable(what: str, reason: str) -> Files:
    return Files(refused=f"{what} cannot be read: {reason}", unreadable=True)
