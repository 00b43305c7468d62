"""What comes, changes and goes on disk is served, or let go, after the second look that saw it so."""

import pytest

from service.errors import UnknownModel
from service.versions import State
from tests.conftest import Lines
from tests.disk import Disk, look, served, states


def test_nothing_new(disk: Disk) -> None:
    """Looking at what did not change loads nothing."""
    look(repository := disk.open(), 5)
    assert (disk.loads.asked, states(repository)) == ([], {1: State.READY})


def test_new_version(disk: Disk) -> None:
    """A new version is served after the second look that saw it so, beside the one before."""
    repository = disk.open()
    disk.write("a/2/model.onnx")
    look(repository, 1)
    assert disk.loads.asked == []
    look(repository, 1)
    assert (disk.loads.asked, states(repository)) == (["a/2"], {2: State.READY, 1: State.READY})


def test_still_growing(disk: Disk) -> None:
    """A version whose files change from look to look is not loaded until they are at rest."""
    repository = disk.open()
    for file in ("a/2/model.onnx", "a/2/model.onnx", "a/2/weights.bin", "a/2/labels.txt"):
        disk.write(file)
        look(repository, 1)
    assert disk.loads.asked == []
    look(repository, 1)
    assert disk.loads.asked == ["a/2"]


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "labels.txt", "weights.bin", "weights/1.bin"])
def test_changed_version(disk: Disk, file: str) -> None:
    """A version one of whose files changed, or was added, is loaded anew; then the old one drains."""
    repository = disk.open()
    old = served(repository)
    disk.write(f"a/1/{file}")
    look(repository)
    assert disk.loads.asked == ["a/1"]
    assert served(repository) is not old
    assert (len(old.drained), served(repository).drained) == (1, [])


def test_chown_is_no_change(disk: Disk) -> None:
    """What is served and of which only inodes changed is not loaded again; Kubernetes changes them for each pod."""
    repository = disk.open()
    disk.chmod("a/1/model.onnx", 0o440)
    look(repository, 4)
    assert disk.loads.asked == []


def test_forged_times(disk: Disk) -> None:
    """Other contents of the same size and time are loaded, each time."""
    disk.forge("a/1/model.onnx", "one")
    repository = disk.open()
    for text in ("two", "six"):
        disk.forge("a/1/model.onnx", text)
        look(repository)
    assert disk.loads.asked == ["a/1", "a/1"]


def test_forged_while_it_is_loaded(disk: Disk) -> None:
    """A version whose contents change while it is loaded is loaded again, be its size and time the same."""
    disk.forge("a/1/model.onnx", "one")
    disk.loads.meanwhile = lambda: disk.forge("a/1/model.onnx", "two")
    repository = disk.open()
    disk.loads.meanwhile = lambda: None
    look(repository)
    assert disk.loads.asked == ["a/1"]


def test_what_changed_is_logged(disk: Disk, lines: Lines) -> None:
    """The log names the files for which a version is loaded anew, be it a mode that changed."""
    disk.write("a/1/labels.txt")
    repository = disk.open()
    lines()
    disk.chmod("a/1/labels.txt", 0o400)
    disk.write("a/1/weights.bin")
    look(repository)
    assert [line["files"] for line in lines() if line["event"] == "version changed"] == [["labels.txt", "weights.bin"]]


def test_removed_file(disk: Disk) -> None:
    """A version that lost a file beside the model is loaded anew."""
    disk.write("a/1/labels.txt")
    repository = disk.open()
    (disk.root / "a/1/labels.txt").unlink()
    look(repository)
    assert disk.loads.asked == ["a/1"]


def test_new_model(disk: Disk) -> None:
    """A new model is served and counts from then on."""
    repository = disk.open()
    disk.write("b/1/model.onnx")
    look(repository)
    assert repository.expected() == repository.readiness() == {"a": True, "b": True}


def test_told_before_it_is_logged(disk: Disk, lines: Lines) -> None:
    """Who reads in the log that a model is ready finds it so: health is told first."""
    repository = disk.open()
    events: list[str] = []
    lines()
    repository.on_change(lambda: events.extend(["told", *(line["event"] for line in lines())]))
    disk.write("b/1/model.onnx")
    look(repository)
    assert [*events, *(line["event"] for line in lines())] == ["told", "model ready"]


def test_still_the_default(disk: Disk) -> None:
    """What a request that names no model gets is the same when another model comes, and the one left when it goes."""
    repository = disk.open()
    disk.write("b/1/model.onnx")
    look(repository)
    assert repository.find("", "").facts.name == "a"
    disk.remove("a")
    look(repository)
    assert repository.find("", "").facts.name == "b"


def test_removed_model(disk: Disk) -> None:
    """A model whose folder is gone in two looks is drained, unknown and counts no more."""
    disk.write("b/1/model.onnx")
    repository = disk.open()
    model = served(repository)
    disk.remove("a")
    look(repository, 1)
    assert model.drained == []
    look(repository, 1)
    assert len(model.drained) == 1
    assert repository.expected() == repository.readiness() == {"b": True}
    assert disk.metrics.registry.get_sample_value("saccade_model_ready", {"model": "a"}) is None
    with pytest.raises(UnknownModel):
        repository.find("a", "")


def test_removed_version(disk: Disk) -> None:
    """A version that is gone is let go, and the next lower one is loaded in its place first."""
    disk.write("a/2/model.onnx", "a/3/model.onnx")
    repository = disk.open()
    model = served(repository)
    disk.remove("a/3")
    look(repository)
    assert (disk.loads.asked, states(repository), len(model.drained)) == (["a/1"], {2: State.READY, 1: State.READY}, 1)


def test_keep_versions(disk: Disk) -> None:
    """What comes later pushes out what is beyond the versions that are kept, and those are not loaded again."""
    repository = disk.open(keep=2)
    oldest = served(repository)
    disk.write("a/2/model.onnx", "a/3/model.onnx")
    look(repository, 4)
    assert (disk.loads.asked, states(repository)) == (["a/3", "a/2"], {3: State.READY, 2: State.READY})
    assert len(oldest.drained) == 1


def test_unloaded_by_name(disk: Disk) -> None:
    """A model that was unloaded by name stays so, whatever is published, until it is loaded by name."""
    repository = disk.open()
    repository.unload("a", 1.0)
    disk.write("a/2/model.onnx")
    look(repository, 4)
    assert (repository.readiness(), disk.loads.asked) == ({}, [])
    repository.load("a", 1.0)
    disk.write("a/3/model.onnx")
    look(repository)
    assert states(repository) == {3: State.READY, 2: State.READY}


def test_loaded_by_name(disk: Disk) -> None:
    """A version that is loaded by name needs no second look, and polling does not load it again."""
    repository = disk.open()
    disk.write("a/1/model.onnx", "a/2/model.onnx")
    repository.load("a", 1.0)
    look(repository, 4)
    assert disk.loads.asked == ["a/2", "a/1"]


def test_stopped(disk: Disk) -> None:
    """A server that stops begins no load."""
    repository = disk.open()
    disk.write("a/2/model.onnx")
    look(repository, 1)
    repository.stop()
    look(repository, 1)
    assert disk.loads.asked == []
    assert states(repository) == {1: State.READY}
