"""With `--reload replace` a version is let go before the one that takes its place is loaded."""

from pathlib import Path

import pytest

from service.errors import ModelRejected, Unavailable
from service.versions import State
from tests.disk import Disk, look, served, states


def test_replace(disk: Disk) -> None:
    """With `replace` the old version is let go before the new one is loaded; callers hear UNAVAILABLE meanwhile."""
    repository = disk.open(keep=1, reload="replace")
    old = served(repository)
    seen: list[bool] = []
    repository.on_change(lambda: seen.append(repository.readiness()["a"]))

    def meanwhile() -> None:
        assert len(old.drained) == 1
        with pytest.raises(Unavailable, match="is being loaded"):
            repository.find("a", "")

    disk.loads.meanwhile = meanwhile
    disk.write("a/2/model.onnx")
    look(repository)
    assert (states(repository), disk.loads.asked) == ({2: State.READY}, ["a/2"])
    assert (seen[0], seen[-1]) == (False, True)


def test_replace_checked_first(disk: Disk) -> None:
    """With `replace` a new version that can be told to be wrong without loading it costs the old one nothing."""

    def check(path: Path) -> None:
        if path.parts[-3:-1] == ("a", "2"):
            raise ModelRejected("no whole ONNX file")

    repository = disk.open(keep=1, reload="replace", check=check)
    old = served(repository)
    seen: list[bool] = []
    repository.on_change(lambda: seen.append(repository.readiness()["a"]))
    disk.write("a/2/model.onnx")
    look(repository, 4)
    assert (old.drained, disk.loads.asked, served(repository)) == ([], [], old)
    assert states(repository) == {2: State.FAILED, 1: State.READY}
    assert all(seen)


def test_replace_the_lowest(disk: Disk) -> None:
    """With `replace` and two versions kept, a third takes the place of the lowest; the other one serves meanwhile."""
    disk.write("a/2/model.onnx")
    repository = disk.open(keep=2, reload="replace")
    lowest, other = (served(repository, version) for version in "12")

    def meanwhile() -> None:
        assert (len(lowest.drained), other.drained) == (1, [])
        assert served(repository) is other

    disk.loads.meanwhile = meanwhile
    disk.write("a/3/model.onnx")
    look(repository)
    assert (states(repository), disk.loads.asked) == ({3: State.READY, 2: State.READY}, ["a/3"])


def test_replace_fails(disk: Disk) -> None:
    """With `replace` a new version that fails has the old one loaded again."""
    repository = disk.open(keep=1, reload="replace")
    disk.loads.failing = ("a/2",)
    disk.write("a/2/model.onnx")
    look(repository, 4)
    assert (states(repository), disk.loads.asked) == ({2: State.FAILED, 1: State.READY}, ["a/2", "a/1"])


def test_replace_changed_fails(disk: Disk) -> None:
    """With `replace` a version that changed for the worse is lost; the server as a whole was served before."""
    repository = disk.open(keep=1, reload="replace")
    disk.loads.failing = ("a/1",)
    disk.write("a/1/model.onnx")
    look(repository, 4)
    assert (states(repository), disk.loads.asked, repository.expected()) == ({1: State.FAILED}, ["a/1"], {"a": True})
