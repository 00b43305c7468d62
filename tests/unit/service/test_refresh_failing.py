"""What fails, is refused or cannot be read on disk leaves what is served as it is, and says why."""

from pathlib import Path

import pytest

from service.versions import State
from tests.conftest import Lines
from tests.disk import Disk, look, reason, served, states


def test_failed_version(disk: Disk) -> None:
    """A version that fails says why, leaves the old one serving, and is not tried again as it is."""
    repository = disk.open()
    disk.write("a/2/model.onnx")
    disk.loads.failing = ("a/2",)
    look(repository, 5)
    assert (disk.loads.asked, states(repository)) == (["a/2"], {2: State.FAILED, 1: State.READY})
    assert "golden sample 0 is wrong" in reason(repository, 2)
    assert served(repository).facts.version == 1
    failures = disk.metrics.registry.get_sample_value(
        "saccade_model_load_failures_total", {"model": "a", "version": "2"}
    )
    assert failures == 1


def test_failed_version_changed(disk: Disk) -> None:
    """A version that failed is tried again when a file of it changed."""
    repository = disk.open()
    disk.write("a/2/model.onnx")
    disk.loads.failing = ("a/2",)
    look(repository)
    disk.loads.failing = ()
    disk.write("a/2/weights.bin")
    look(repository)
    assert states(repository) == {2: State.READY, 1: State.READY}


def test_changed_version_fails(disk: Disk) -> None:
    """A served version whose files changed for the worse is served as it was loaded, and says so; once it is mended
    it is loaded, and says nothing.
    """
    repository = disk.open()
    old = served(repository)
    disk.loads.failing = ("a/1",)
    disk.write("a/1/model.onnx")
    look(repository, 4)
    assert disk.loads.asked == ["a/1"]
    assert (served(repository), states(repository), old.drained) == (old, {1: State.READY}, [])
    assert "golden sample 0 is wrong; what was loaded before is served" in reason(repository, 1)
    disk.loads.failing = ()
    disk.write("a/1/model.onnx")
    look(repository)
    assert (served(repository) is old, len(old.drained), reason(repository, 1)) == (False, 1, "")


def test_replaced_by_one_that_fails(disk: Disk) -> None:
    """A served version that is gone is kept where what came instead fails, and goes when another passes."""
    repository = disk.open()
    old = served(repository)
    disk.loads.failing = ("a/2",)
    disk.write("a/2/model.onnx")
    disk.remove("a/1")
    look(repository, 4)
    assert (served(repository), states(repository)) == (old, {2: State.FAILED, 1: State.READY})
    assert "gone from the repository" in reason(repository, 1)
    disk.loads.failing = ()
    disk.write("a/2/model.onnx")
    look(repository)
    assert (states(repository), len(old.drained)) == ({2: State.READY}, 1)


def test_back_again(disk: Disk) -> None:
    """A version that was gone and is back as it was says nothing more, and is not loaded again."""
    repository = disk.open()
    disk.loads.failing = ("a/2",)
    disk.write("a/2/model.onnx")
    (disk.root / "a/1").rename(disk.root / "away")
    look(repository)
    (disk.root / "away").rename(disk.root / "a/1")
    look(repository)
    assert (reason(repository, 1), disk.loads.asked) == ("", ["a/2"])


def test_refused_version(disk: Disk, tmp_path: Path) -> None:
    """A version with a link out of the repository fails with its reason, and nothing of it is opened."""
    repository = disk.open()
    (disk.root / "a/2").symlink_to(tmp_path)
    look(repository)
    assert (disk.loads.asked, states(repository)) == ([], {2: State.FAILED, 1: State.READY})
    assert "link out of the repository" in reason(repository, 2)


def test_an_unreadable_version(disk: Disk, lines: Lines) -> None:
    """A served version that cannot be read for a while serves on, which is logged once, and is not loaded again."""
    repository = disk.open()
    lines()
    (folder := disk.root / "a/1").rename(disk.root / ".away")
    folder.symlink_to(folder)
    look(repository, 4)
    folder.unlink()
    (disk.root / ".away").rename(folder)
    look(repository, 4)
    assert (disk.loads.asked, states(repository), reason(repository, 1)) == ([], {1: State.READY}, "")
    assert [(line["event"], line["folder"]) for line in lines()] == [
        ("repository is not as expected", str(folder)),
        ("repository is as expected again", str(folder)),
    ]


def test_a_new_version_that_cannot_be_read(disk: Disk) -> None:
    """A new version that cannot be read fails with the reason, and is loaded when it can be."""
    repository = disk.open()
    (folder := disk.root / "a/2").symlink_to(folder)
    look(repository, 4)
    assert (disk.loads.asked, states(repository)) == ([], {2: State.FAILED, 1: State.READY})
    assert reason(repository, 2).startswith("its folder cannot be read: Too many levels")
    folder.unlink()
    disk.write("a/2/model.onnx")
    look(repository)
    assert (disk.loads.asked, states(repository)) == (["a/2"], {2: State.READY, 1: State.READY})


def test_mended_by_chmod(disk: Disk) -> None:
    """A version that failed is tried again when nothing but the mode of a file changed."""
    repository = disk.open()
    disk.write("a/2/model.onnx")
    disk.loads.failing = ("a/2",)
    look(repository)
    disk.loads.failing = ()
    disk.chmod("a/2/model.onnx", 0o400)
    look(repository)
    assert states(repository) == {2: State.READY, 1: State.READY}


@pytest.mark.parametrize("trouble", ["gone", "empty", "no folder"])
def test_a_volume_that_went_away(disk: Disk, lines: Lines, trouble: str) -> None:
    """A repository that is gone, empty or unreadable leaves what is served as it is, and is logged once."""
    repository = disk.open()
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


def test_emptied(disk: Disk) -> None:
    """Where it may be empty, an emptied repository lets every model go."""
    repository = disk.open(may_be_empty=True)
    disk.remove("a")
    look(repository)
    assert repository.readiness() == repository.expected() == {}


def test_no_version_left(disk: Disk, lines: Lines) -> None:
    """A model's folder without a version keeps what is served, which is logged once."""
    disk.write("b/1/model.onnx")
    repository = disk.open()
    lines()
    disk.remove("a/1")
    look(repository, 4)
    assert repository.readiness() == {"a": True, "b": True}
    assert [line["reason"] for line in lines()] == [
        "it holds no version any more; remove the folder if the model is to go"
    ]


def test_no_version_at_all(disk: Disk, lines: Lines) -> None:
    """A model's folder that never held a version is logged once, with what makes a version."""
    repository = disk.open()
    lines()
    disk.write("b/model.onnx", "b/v1/model.onnx")
    look(repository, 4)
    assert [(line["folder"], line["reason"]) for line in lines()] == [
        (str(disk.root / "b"), "it holds no version: no folder whose name is a whole number, with a model.onnx in it")
    ]


def test_what_is_wrong_outlives_an_outage(disk: Disk, lines: Lines) -> None:
    """What was said of a folder is not taken back, nor said again, because the repository was away for a while."""
    repository = disk.open()
    disk.write("two words/1/model.onnx")
    look(repository)
    lines()
    disk.root.rename(away := disk.root.with_name("away"))
    look(repository)
    away.rename(disk.root)
    look(repository)
    assert {line["folder"] for line in lines()} == {str(disk.root)}


def test_bad_name_later(disk: Disk, lines: Lines) -> None:
    """A folder that can be no model and comes later is logged once, and keeps no other from being served."""
    repository = disk.open()
    lines()
    disk.write("two words/1/model.onnx", "b/1/model.onnx")
    look(repository, 4)
    assert repository.readiness() == {"a": True, "b": True}
    assert [line["level"] for line in lines() if line["event"] == "repository is not as expected"] == ["warning"]
