import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from service import cores
from service.errors import SetupError

FOUR = frozenset({2, 3, 6, 7})


def cgroup(folder: Path, **files: str) -> Path:
    """Return a folder with the files of a cgroup; `__` stands for a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("files", "quota", "count"),
    [
        ({}, inf, 4),
        ({"cpu_max": "max 100000"}, inf, 4),
        ({"cpu_max": "200000 100000"}, 2.0, 2),
        ({"cpu_max": "150000 100000"}, 1.5, 2),
        ({"cpu_max": "10000 100000"}, 0.1, 1),
        ({"cpu_max": "900000 100000"}, 9.0, 4),
        ({"cpu_max": ""}, inf, 4),
        ({"cpu__cpu_cfs_quota_us": "300000", "cpu__cpu_cfs_period_us": "100000"}, 3.0, 3),
        ({"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, inf, 4),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], quota: float, count: int) -> None:
    """The cores that count are those of the mask, or fewer where a cgroup of either version allows less."""
    folder = cgroup(tmp_path, **files)
    assert (cores.quota(folder), cores.count(FOUR, folder)) == (quota, count)


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a.slice/b.service", {"a.slice/b.service/cpu.max": "150000 100000"}, 1.5),
        ("0::/a.slice/b.service", {"a.slice/cpu.max": "50000 100000", "a.slice/b.service/cpu.max": "max 100000"}, 0.5),
        ("0::/", {"a.slice/cpu.max": "50000 100000"}, inf),
        (
            "7:memory:/x\n4:cpu,cpuacct:/x",
            {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("4:cpuset:/x", {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"}, inf),
        ("0::/../../outside", {}, inf),
    ],
)
def test_quota_of_a_service(tmp_path: Path, own: str, files: dict[str, str], quota: float) -> None:
    """The limit may stand on the process's own cgroup, as for a service of systemd, or on any above it."""
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert cores.quota(tmp_path / "fs", tmp_path / "own") == quota


@pytest.mark.parametrize(("seed", "core"), [(0, 2), (1, 3), (6, 6), (4_000_000_003, 7)])
def test_auto_is_a_core_of_the_mask(tmp_path: Path, seed: int, core: int) -> None:
    """`auto` means a core of the mask by the seed, so that processes of one id in two containers may differ."""
    assert cores.home("auto", FOUR, tmp_path, seed) == core


def test_auto_stays(tmp_path: Path) -> None:
    """`auto` means the same core whenever a process asks."""
    assert len({cores.home("auto", FOUR, tmp_path) for _ in range(20)}) == 1


def test_the_seed_is_of_the_process() -> None:
    """Processes have seeds of their own."""
    command = [sys.executable, "-c", "from service import cores; print(cores._SEED)"]
    said = {subprocess.run(command, capture_output=True, check=True, timeout=60).stdout for _ in range(3)}
    assert len(said) > 1


@pytest.mark.parametrize(("seed", "pins"), [(0, ["2", "6"]), (1, ["3", "7"]), (3, ["7", "3"])])
def test_homes_by_the_seed(tmp_path: Path, seed: int, pins: list[str]) -> None:
    """The workers of one server start at the core of the seed, and are spread from there."""
    assert cores.homes("auto", 2, FOUR, tmp_path, seed) == pins


def test_auto_pins_nothing_under_a_quota(tmp_path: Path) -> None:
    """`auto` pins nothing where the quota is less than the mask holds."""
    assert cores.home("auto", FOUR, cgroup(tmp_path, cpu_max="200000 100000")) is None


def test_off_and_number(tmp_path: Path) -> None:
    """`off` pins nothing; a number means that core, also under a quota."""
    folder = cgroup(tmp_path, cpu_max="200000 100000")
    assert (cores.home("off", FOUR, folder), cores.home("6", FOUR, folder)) == (None, 6)


def test_foreign_core_is_refused(tmp_path: Path) -> None:
    """A core that is not in the mask is refused, naming those that are."""
    with pytest.raises(SetupError, match="--pin 4: this process may use the cores 2, 3, 6, 7"):
        cores.home("4", FOUR, tmp_path)


needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="pinning shows only on two cores or more")


@needs_two
def test_pinned_for_a_while() -> None:
    """`pinned` keeps the thread on the core and gives it the whole mask back; None changes nothing."""
    mask = os.sched_getaffinity(0)
    core = max(mask)
    with cores.pinned(core):
        assert os.sched_getaffinity(0) == {core}
    with cores.pinned(None):
        assert os.sched_getaffinity(0) == mask
    assert os.sched_getaffinity(0) == mask


@needs_two
def test_whole_for_a_while() -> None:
    """`whole` gives a pinned thread the whole mask for a while, then its own back."""
    mask = os.sched_getaffinity(0)
    with cores.pinned(min(mask)):
        with cores.whole():
            assert os.sched_getaffinity(0) == mask
        assert os.sched_getaffinity(0) == {min(mask)}


def test_cores_that_were_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process has none of its first cores any more, the system refuses, and threads run where they are."""

    def refuse(_: int, mask: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    cores.unpin()
    with cores.pinned(0), cores.whole():
        pass


@pytest.mark.parametrize(
    ("workers", "mask", "pins"),
    [
        (2, {0, 1}, ["0", "1"]),
        (2, {0, 1, 2, 3, 4, 5, 6, 7}, ["0", "4"]),
        (3, {2, 5}, ["2", "2", "5"]),
        (2, {3}, ["3", "3"]),
    ],
)
def test_homes(workers: int, mask: set[int], pins: list[str], tmp_path: Path) -> None:
    """Workers are spread over the cores, from that on which one server would be."""
    found = cores.homes("auto", workers, frozenset(mask), tmp_path)
    first = sorted(mask).index(int(found[0]))
    turned = sorted(mask)[first:] + sorted(mask)[:first]
    assert [turned.index(int(pin)) for pin in found] == [sorted(mask).index(int(pin)) for pin in pins]


def test_homes_off(tmp_path: Path) -> None:
    """With `off`, and where a quota allows less than the mask holds, no worker is pinned."""
    assert cores.homes("off", 2, frozenset({0, 1}), tmp_path) == ["off", "off"]
    (tmp_path / "cpu.max").write_text("100000 100000")
    assert cores.homes("auto", 2, frozenset({0, 1}), tmp_path) == ["off", "off"]


def test_homes_one_core() -> None:
    """One core for several workers is an error that says what to do."""
    with pytest.raises(SetupError, match="--pin 0 is one core, and there are 2 workers; use auto or off"):
        cores.homes("0", 2)
