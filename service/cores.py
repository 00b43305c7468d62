"""The cores of this process: how many it may use, and which threads stay on one. Standard library only.

Threads that hand a lock to each other over two cores pay 1.35 times as much for a call of a small model as on one. But
ONNX Runtime's threads inherit the mask of the thread that makes the session, and on one core they would be three times
slower. So the mask is read once, before anybody is pinned; gRPC's threads and those that serve small models are pinned;
sessions are made, and pictures decoded, with the whole mask.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

from service.errors import SetupError

_HAS_MASKS = hasattr(os, "sched_setaffinity")
_MASK: frozenset[int] = frozenset(os.sched_getaffinity(0)) if _HAS_MASKS else frozenset(range(os.cpu_count() or 1))
_SEED = int.from_bytes(os.urandom(4))
"""Chooses the core of `auto`, the same one throughout the process. Its id would not do: in containers all are alike."""
_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def count(mask: frozenset[int] = _MASK, cgroup: Path = _CGROUP) -> int:
    """Return how many cores this process may keep busy: those of its mask, or fewer where its quota says so."""
    return max(1, round(min(len(mask), quota(cgroup))))


def each(workers: int) -> int:
    """Return how many cores each of so many processes may keep busy: its share, and at least one."""
    return max(1, count() // workers)


def quota(cgroup: Path = _CGROUP, own: Path = _OWN) -> float:
    """Return how many cores' worth of time this process may take: the least of its cgroup and those above it.

    Args:
        cgroup: where cgroups are mounted, of version 2 or 1 (`cpu/`).
        own: says which are this process's: a container sees its own as the root, a service of systemd does not.
    """
    found = {_limit(cgroup, "cpu.max"), _limit(cgroup / "cpu")}
    for line in _word(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        root = cgroup if number == "0" else cgroup / "cpu"
        group = root / path.lstrip("/")
        for folder in [group, *group.parents]:
            if folder == root or not folder.is_relative_to(root):
                break
            found.add(_limit(folder, "cpu.max") if number == "0" else _limit(folder))
    return min(found)


def home(choice: str, mask: frozenset[int] = _MASK, cgroup: Path = _CGROUP, seed: int = _SEED) -> int | None:
    """Return the core that `--pin` means; None: nothing is pinned.

    Args:
        choice: a core's number, `off`, or `auto`: one of the mask, by the seed so that several servers spread, unless
            the cgroup's quota allows less than the mask holds: then the kernel must be free to move threads.
        mask: the cores of this process.
        cgroup: where the quota is read.
        seed: any number; each process has one of its own.

    Raises:
        SetupError: the core is none of this process.
    """
    if choice == "off" or not _HAS_MASKS:
        return None
    if choice == "auto":
        return sorted(mask)[seed % len(mask)] if len(mask) <= quota(cgroup) else None
    if int(choice) not in mask:
        raise SetupError(f"--pin {choice}: this process may use the cores {', '.join(map(str, sorted(mask)))}")
    return int(choice)


def homes(
    choice: str, workers: int, mask: frozenset[int] = _MASK, cgroup: Path = _CGROUP, seed: int = _SEED
) -> list[str]:
    """Return what `--pin` is for each worker: a core of its own, as far apart as they go, or `off`.

    Args:
        choice: `off` or `auto`.
        workers: how many there are; with more than there are cores, some share one.
        mask: see `home`.
        cgroup: see `home`.
        seed: see `home`.

    Raises:
        SetupError: one core is named for all of them.
    """
    if choice not in {"auto", "off"}:
        raise SetupError(f"--pin {choice} is one core, and there are {workers} workers; use auto or off")
    first = home(choice, mask, cgroup, seed)
    if first is None:
        return ["off"] * workers
    cores = sorted(mask)
    start = cores.index(first)
    return [str(cores[(start + worker * len(cores) // workers) % len(cores)]) for worker in range(workers)]


def pin(core: int | None) -> None:
    """Keep the calling thread, and those that it makes from now on, on one core; None does nothing."""
    if core is not None:
        _keep_on({core})


def unpin() -> None:
    """Give the calling thread the whole mask."""
    _keep_on(_MASK)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pin the calling thread for a while: threads that are made meanwhile stay pinned."""
    pin(core)
    try:
        yield
    finally:
        unpin()


@contextmanager
def whole() -> Iterator[None]:
    """Give the calling thread the whole mask for a while, whatever it had."""
    before = os.sched_getaffinity(0) if _HAS_MASKS else set()
    unpin()
    try:
        yield
    finally:
        _keep_on(before)


def _keep_on(mask: Collection[int]) -> None:
    if mask and _HAS_MASKS:
        with suppress(OSError):  # its cores were taken from the process since it started: slower, and no harm else
            os.sched_setaffinity(0, mask)


def _limit(folder: Path, file: str = "") -> float:
    """Return a cgroup's cores by its file of version 2, or those of version 1; infinity where nothing limits it."""
    if file:
        words = _word(folder / file).split()
    else:
        words = [_word(folder / "cpu.cfs_quota_us"), _word(folder / "cpu.cfs_period_us")]
    try:
        limit, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):
        return inf  # "max", or no such files
    return limit / period if limit > 0 and period > 0 else inf


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
