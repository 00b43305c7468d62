"""With `--reload replace` a version is let go before the one that takes its place is loaded."""

import pytest

from service.errors import Unavailable
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
