"""What changes in a repository on disk is served after the second look; a failure leaves what is served."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from service.errors import Unavailable, UnknownModel
from service.metrics import Metrics
from service.repository import Repository
from service.switch import Reload
from service.versions import State
from tests.conftest import Lines
from tests.loads import FakeModel, Loads

Open = Callable[..., Repository]


@pytest.fixture
def loads() -> Loads:
    """Return what loads fakes."""
    return Loads()


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of their own."""
    return Metrics()


class Disk:
    """The repository on disk; each change has a time of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0

    def write(self, *files: str) -> None:
        """Write files, or write them again."""
        for file in files:
            path = self.root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self.now += 1
            os.utime(path, ns=(0, self.now))

    def remove(self, *folders: str) -> None:
        """Remove folders and what is in them."""
        for folder in folders:
            shutil.rmtree(self.root / folder)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Return a repository on disk with version 1 of a."""
    (tmp_path / "models").mkdir()
    disk = Disk(tmp_path / "models")
    disk.write("a/1/model.onnx")
    return disk


@pytest.fixture
def opened(disk: Disk, loads: Loads, metrics: Metrics) -> Open:
    """Return what opens and loads the repository."""

    def open_it(keep: int = 2, reload: Reload = "beside", *, may_be_empty: bool = False) -> Repository:
        repository = Repository(
            disk.root,
            loads,
            keep_versions=keep,
            default_model=None,
            metrics=metrics,
            reload=reload,
            may_be_empty=may_be_empty,
        )
        repository.scan()
        repository.load_all()
        loads.asked.clear()
        return repository

    return open_it


def look(repository: Repository, times: int = 2) -> None:
    """Look so many times."""
    for _ in range(times):
        repository.refresh(1.0)


def states(repository: Repository, name: str = "a") -> dict[int, State]:
    """Return the state of each version of a model."""
    return {entry.version: entry.state for entry in repository.versions() if entry.name == name}


def reason(repository: Repository, version: int) -> str:
    """Return what is said of a version of a."""
    return next(entry.reason for entry in repository.versions() if entry.version == version)


def served(repository: Repository) -> FakeModel:
    """Return what answers a call to a."""
    return cast("FakeModel", repository.find("a", ""))


def test_nothing_new(opened: Open, loads: Loads) -> None:
    """Looking at what did not change loads nothing."""
    look(repository := opened(), 5)
    assert (loads.asked, states(repository)) == ([], {1: State.READY})


def test_new_version(opened: Open, disk: Disk, loads: Loads) -> None:
    """A new version is served after the second look that saw it so, beside the one before."""
    repository = opened()
    disk.write("a/2/model.onnx")
    look(repository, 1)
    assert loads.asked == []
    look(repository, 1)
    assert (loads.asked, states(repository)) == (["a/2"], {2: State.READY, 1: State.READY})


def test_still_growing(opened: Open, disk: Disk, loads: Loads) -> None:
    """A version whose files change from look to look is not loaded until they are at rest."""
    repository = opened()
    for file in ("a/2/model.onnx", "a/2/model.onnx", "a/2/weights.bin", "a/2/labels.txt"):
        disk.write(file)
        look(repository, 1)
    assert loads.asked == []
    look(repository, 1)
    assert loads.asked == ["a/2"]


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "labels.txt", "weights.bin", "weights/1.bin"])
def test_changed_version(opened: Open, disk: Disk, loads: Loads, file: str) -> None:
    """A version one of whose files changed, or was added, is loaded anew; then the old one drains."""
    repository = opened()
    old = served(repository)
    disk.write(f"a/1/{file}")
    look(repository)
    assert loads.asked == ["a/1"]
    assert served(repository) is not old
    assert (len(old.drained), served(repository).drained) == (1, [])


def test_what_changed_is_logged(opened: Open, disk: Disk, lines: Lines) -> None:
    """The log names the files for which a version is loaded anew, be it a mode that changed."""
    disk.write("a/1/labels.txt")
    repository = opened()
    lines()
    (disk.root / "a/1/labels.txt").chmod(0o400)
    disk.write("a/1/weights.bin")
    look(repository)
    assert [line["files"] for line in lines() if line["event"] == "version changed"] == [["labels.txt", "weights.bin"]]


def test_removed_file(opened: Open, disk: Disk, loads: Loads) -> None:
    """A version that lost a file beside the model is loaded anew."""
    disk.write("a/1/labels.txt")
    repository = opened()
    (disk.root / "a/1/labels.txt").unlink()
    look(repository)
    assert loads.asked == ["a/1"]


def test_new_model(opened: Open, disk: Disk) -> None:
    """A new model is served and counts from then on."""
    repository = opened()
    disk.write("b/1/model.onnx")
    look(repository)
    assert repository.expected() == repository.readiness() == {"a": True, "b": True}


def test_still_the_default(opened: Open, disk: Disk) -> None:
    """What a request that names no model gets is the same when another model comes, and the one left when it goes."""
    repository = opened()
    disk.write("b/1/model.onnx")
    look(repository)
    assert repository.find("", "").facts.name == "a"
    disk.remove("a")
    look(repository)
    assert repository.find("", "").facts.name == "b"


def test_removed_model(opened: Open, disk: Disk, metrics: Metrics) -> None:
    """A model whose folder is gone in two looks is drained, unknown and counts no more."""
    disk.write("b/1/model.onnx")
    repository = opened()
    model = served(repository)
    disk.remove("a")
    look(repository, 1)
    assert model.drained == []
    look(repository, 1)
    assert len(model.drained) == 1
    assert repository.expected() == repository.readiness() == {"b": True}
    assert metrics.registry.get_sample_value("saccade_model_ready", {"model": "a"}) == 0
    with pytest.raises(UnknownModel):
        repository.find("a", "")


def test_removed_version(opened: Open, disk: Disk, loads: Loads) -> None:
    """A version that is gone is let go, and the next lower one is loaded in its place first."""
    disk.write("a/2/model.onnx", "a/3/model.onnx")
    repository = opened()
    model = served(repository)
    disk.remove("a/3")
    look(repository)
    assert (loads.asked, states(repository), len(model.drained)) == (["a/1"], {2: State.READY, 1: State.READY}, 1)


def test_keep_versions(opened: Open, disk: Disk, loads: Loads) -> None:
    """What comes later pushes out what is beyond the versions that are kept, and those are not loaded again."""
    repository = opened(keep=2)
    oldest = served(repository)
    disk.write("a/2/model.onnx", "a/3/model.onnx")
    look(repository, 4)
    assert (loads.asked, states(repository)) == (["a/3", "a/2"], {3: State.READY, 2: State.READY})
    assert len(oldest.drained) == 1


def test_failed_version(opened: Open, disk: Disk, loads: Loads, metrics: Metrics) -> None:
    """A version that fails says why, leaves the old one serving, and is not tried again as it is."""
    repository = opened()
    disk.write("a/2/model.onnx")
    loads.failing = ("a/2",)
    look(repository, 5)
    assert (loads.asked, states(repository)) == (["a/2"], {2: State.FAILED, 1: State.READY})
    assert "golden sample 0 is wrong" in reason(repository, 2)
    assert served(repository).facts.version == 1
    failures = metrics.registry.get_sample_value("saccade_model_load_failures_total", {"model": "a", "version": "2"})
    assert failures == 1


def test_failed_version_changed(opened: Open, disk: Disk, loads: Loads) -> None:
    """A version that failed is tried again when a file of it changed."""
    repository = opened()
    disk.write("a/2/model.onnx")
    loads.failing = ("a/2",)
    look(repository)
    loads.failing = ()
    disk.write("a/2/weights.bin")
    look(repository)
    assert states(repository) == {2: State.READY, 1: State.READY}


def test_changed_version_fails(opened: Open, disk: Disk, loads: Loads) -> None:
    """A served version whose files changed for the worse is served as it was loaded, and says so; once it is mended
    it is loaded, and says nothing.
    """
    repository = opened()
    old = served(repository)
    loads.failing = ("a/1",)
    disk.write("a/1/model.onnx")
    look(repository, 4)
    assert loads.asked == ["a/1"]
    assert (served(repository), states(repository), old.drained) == (old, {1: State.READY}, [])
    assert "golden sample 0 is wrong; what was loaded before is served" in reason(repository, 1)
    loads.failing = ()
    disk.write("a/1/model.onnx")
    look(repository)
    assert (served(repository) is old, len(old.drained), reason(repository, 1)) == (False, 1, "")


def test_replaced_by_one_that_fails(opened: Open, disk: Disk, loads: Loads) -> None:
    """A served version that is gone is kept where what came instead fails, and goes when another passes."""
    repository = opened()
    old = served(repository)
    loads.failing = ("a/2",)
    disk.write("a/2/model.onnx")
    disk.remove("a/1")
    look(repository, 4)
    assert (served(repository), states(repository)) == (old, {2: State.FAILED, 1: State.READY})
    assert "gone from the repository" in reason(repository, 1)
    loads.failing = ()
    disk.write("a/2/model.onnx")
    look(repository)
    assert (states(repository), len(old.drained)) == ({2: State.READY}, 1)


def test_back_again(opened: Open, disk: Disk, loads: Loads) -> None:
    """A version that was gone and is back as it was says nothing more, and is not loaded again."""
    repository = opened()
    loads.failing = ("a/2",)
    disk.write("a/2/model.onnx")
    (disk.root / "a/1").rename(disk.root / "away")
    look(repository)
    (disk.root / "away").rename(disk.root / "a/1")
    look(repository)
    assert (reason(repository, 1), loads.asked) == ("", ["a/2"])


def test_refused_version(opened: Open, disk: Disk, loads: Loads, tmp_path: Path) -> None:
    """A version with a link out of the repository fails with its reason, and nothing of it is opened."""
    repository = opened()
    (disk.root / "a/2").symlink_to(tmp_path)
    look(repository)
    assert (loads.asked, states(repository)) == ([], {2: State.FAILED, 1: State.READY})
    assert "link out of the repository" in reason(repository, 2)


def test_an_unreadable_version(opened: Open, disk: Disk, loads: Loads, lines: Lines) -> None:
    """A served version that cannot be read for a while serves on, which is logged once, and is not loaded again."""
    repository = opened()
    lines()
    (folder := disk.root / "a/1").rename(disk.root / ".away")
    folder.symlink_to(folder)
    look(repository, 4)
    folder.unlink()
    (disk.root / ".away").rename(folder)
    look(repository, 4)
    assert (loads.asked, states(repository), reason(repository, 1)) == ([], {1: State.READY}, "")
    assert [(line["event"], line["folder"]) for line in lines()] == [
        ("repository is not as expected", str(folder)),
        ("repository is as expected again", str(folder)),
    ]


def test_a_new_version_that_cannot_be_read(opened: Open, disk: Disk, loads: Loads) -> None:
    """A new version that cannot be read fails with the reason, and is loaded when it can be."""
    repository = opened()
    (folder := disk.root / "a/2").symlink_to(folder)
    look(repository, 4)
    assert (loads.asked, states(repository)) == ([], {2: State.FAILED, 1: State.READY})
    assert reason(repository, 2).startswith("its folder cannot be read: Too many levels")
    folder.unlink()
    disk.write("a/2/model.onnx")
    look(repository)
    assert (loads.asked, states(repository)) == (["a/2"], {2: State.READY, 1: State.READY})


def test_mended_by_chmod(opened: Open, disk: Disk, loads: Loads) -> None:
    """A version that failed is tried again when nothing but the mode of a file changed."""
    repository = opened()
    disk.write("a/2/model.onnx")
    loads.failing = ("a/2",)
    look(repository)
    loads.failing = ()
    (disk.root / "a/2/model.onnx").chmod(0o400)
    look(repository)
    assert states(repository) == {2: State.READY, 1: State.READY}


@pytest.mark.parametrize("trouble", ["gone", "empty", "no folder"])
def test_a_volume_that_went_away(opened: Open, disk: Disk, lines: Lines, trouble: str) -> None:
    """A repository that is gone, empty or unreadable leaves what is served as it is, and is logged once."""
    repository = opened()
    lines()
    disk.root.rename(away := disk.root.with_name("away"))
    if trouble == "empty":
        disk.root.mkdir()
    elif trouble == "no folder":
        disk.root.touch()
    look(repository, 4)
    assert states(repository) == {1: State.READY}
    assert [line["event"] for line in lines()] == ["repository is not as expected"]
    if trouble == "empty":
        disk.root.rmdir()
    elif trouble == "no folder":
        disk.root.unlink()
    away.rename(disk.root)
    look(repository, 4)
    assert (states(repository), [line["event"] for line in lines()]) == (
        {1: State.READY},
        ["repository is as expected again"],
    )


def test_emptied(opened: Open, disk: Disk) -> None:
    """Where it may be empty, an emptied repository lets every model go."""
    repository = opened(may_be_empty=True)
    disk.remove("a")
    look(repository)
    assert repository.readiness() == repository.expected() == {}


def test_no_version_left(opened: Open, disk: Disk, lines: Lines) -> None:
    """A model's folder without a version keeps what is served, which is logged once."""
    disk.write("b/1/model.onnx")
    repository = opened()
    lines()
    disk.remove("a/1")
    look(repository, 4)
    assert repository.readiness() == {"a": True, "b": True}
    assert [line["reason"] for line in lines()] == [
        "it holds no version any more; remove the folder if the model is to go"
    ]


def test_no_version_at_all(opened: Open, disk: Disk, lines: Lines) -> None:
    """A model's folder that never held a version is logged once, with what makes a version."""
    repository = opened()
    lines()
    disk.write("b/model.onnx", "b/v1/model.onnx")
    look(repository, 4)
    assert [(line["folder"], line["reason"]) for line in lines()] == [
        (str(disk.root / "b"), "it holds no version: no folder whose name is a whole number, with a model.onnx in it")
    ]


def test_what_is_wrong_outlives_an_outage(opened: Open, disk: Disk, lines: Lines) -> None:
    """What was said of a folder is not taken back, nor said again, because the repository was away for a while."""
    repository = opened()
    disk.write("two words/1/model.onnx")
    look(repository)
    lines()
    disk.root.rename(away := disk.root.with_name("away"))
    look(repository)
    away.rename(disk.root)
    look(repository)
    assert {line["folder"] for line in lines()} == {str(disk.root)}


def test_bad_name_later(opened: Open, disk: Disk, lines: Lines) -> None:
    """A folder that can be no model and comes later is logged once, and keeps no other from being served."""
    repository = opened()
    lines()
    disk.write("two words/1/model.onnx", "b/1/model.onnx")
    look(repository, 4)
    assert repository.readiness() == {"a": True, "b": True}
    assert [line["level"] for line in lines() if line["event"] == "repository is not as expected"] == ["warning"]


def test_unloaded_by_name(opened: Open, disk: Disk, loads: Loads) -> None:
    """A model that was unloaded by name stays so, whatever is published, until it is loaded by name."""
    repository = opened()
    repository.unload("a", 1.0)
    disk.write("a/2/model.onnx")
    look(repository, 4)
    assert (repository.readiness(), loads.asked) == ({}, [])
    repository.load("a", 1.0)
    disk.write("a/3/model.onnx")
    look(repository)
    assert states(repository) == {3: State.READY, 2: State.READY}


def test_loaded_by_name(opened: Open, disk: Disk, loads: Loads) -> None:
    """A version that is loaded by name needs no second look, and polling does not load it again."""
    repository = opened()
    disk.write("a/1/model.onnx", "a/2/model.onnx")
    repository.load("a", 1.0)
    look(repository, 4)
    assert loads.asked == ["a/2", "a/1"]


def test_replace(opened: Open, disk: Disk, loads: Loads) -> None:
    """With `replace` the old version is let go before the new one is loaded; callers hear UNAVAILABLE meanwhile."""
    repository = opened(keep=1, reload="replace")
    old = served(repository)
    seen: list[bool] = []
    repository.on_change(lambda: seen.append(repository.readiness()["a"]))

    def meanwhile() -> None:
        assert len(old.drained) == 1
        with pytest.raises(Unavailable, match="is being loaded"):
            repository.find("a", "")

    loads.meanwhile = meanwhile
    disk.write("a/2/model.onnx")
    look(repository)
    assert (states(repository), loads.asked) == ({2: State.READY}, ["a/2"])
    assert (seen[0], seen[-1]) == (False, True)


def test_replace_fails(opened: Open, disk: Disk, loads: Loads) -> None:
    """With `replace` a new version that fails has the old one loaded again."""
    repository = opened(keep=1, reload="replace")
    loads.failing = ("a/2",)
    disk.write("a/2/model.onnx")
    look(repository, 4)
    assert (states(repository), loads.asked) == ({2: State.FAILED, 1: State.READY}, ["a/2", "a/1"])


def test_replace_changed_fails(opened: Open, disk: Disk, loads: Loads) -> None:
    """With `replace` a version that changed for the worse is lost; the server as a whole was served before."""
    repository = opened(keep=1, reload="replace")
    loads.failing = ("a/1",)
    disk.write("a/1/model.onnx")
    look(repository, 4)
    assert (states(repository), loads.asked, repository.expected()) == ({1: State.FAILED}, ["a/1"], {"a": True})


def test_stopped(opened: Open, disk: Disk, loads: Loads) -> None:
    """A server that stops begins no load."""
    repository = opened()
    disk.write("a/2/model.onnx")
    look(repository, 1)
    repository.stop()
    look(repository, 1)
    assert loads.asked == []
    assert states(repository) == {1: State.READY}
