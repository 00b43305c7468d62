"""Looks at a repository: what lies there, what two of them agree on."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from service.folders import Entry, read_folder
from service.looks import MAX_FILES, File, Files, Look, agreed, look, look_at, unread
from tests.disk import tick

ONE, OTHER = Files((File("model.onnx", 1, 1, 1),)), Files((File("model.onnx", 1, 1, 2),))
UNREAD = Files(refused="its folder cannot be read: Stale file handle", unreadable=True)


def lay(root: Path, *files: str) -> None:
    """Put files on disk, each with its own place in it."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)


def places(files: Files) -> list[str]:
    """Return the places of the files of a version."""
    return [file.place for file in files.entries]


def test_files_of_a_version(tmp_path: Path) -> None:
    """All files of a version are seen with size and time, those in folders too; hidden ones are not."""
    names = ["labels.txt", "manifest.json", "model.onnx", "weights/w.bin"]
    lay(tmp_path, *(f"a/1/{name}" for name in names), "a/1/.model.onnx.X3k", "a/1/.git/x", "a/1/weights/.nfs1")
    os.utime(tmp_path / "a/1/model.onnx", ns=(0, 17))
    files = look(tmp_path).models["a"][1]
    assert places(files) == names
    assert files.entries[2][:3] == ("model.onnx", len("a/1/model.onnx"), 17)


@pytest.mark.parametrize("change", ["overwritten", "renamed over", "chmod"])
def test_times_that_were_set(tmp_path: Path, change: str) -> None:
    """Other contents of the same size and time, as `cp -p` and rsync leave them, are a change; so is `chmod`."""
    lay(tmp_path, "a/1/model.onnx", "new")
    path, new = tmp_path / "a/1/model.onnx", tmp_path / "new"
    new.write_text("b/1/model.onnx")
    for each in (path, new):
        os.utime(each, ns=(0, 17))
    before = look(tmp_path).models["a"][1]
    tick(tmp_path)
    if change == "overwritten":
        path.write_text("b/1/model.onnx")
    elif change == "renamed over":
        new.rename(path)
    else:
        path.chmod(0o644 if path.stat().st_mode & 0o777 != 0o644 else 0o600)
    os.utime(path, ns=(0, 17))
    after = look(tmp_path).models["a"][1]
    assert before.alike(after)
    assert (before != after, before.differing(after)) == (True, ["model.onnx"])


def test_what_is_no_version(tmp_path: Path) -> None:
    """Folders that are no whole number, and those without a model, are no versions; hidden folders are no models."""
    lay(tmp_path, "a/1/model.onnx", "a/v2/model.onnx", "a/01/model.onnx", "a/0/model.onnx", "a/3/labels.txt")
    lay(tmp_path, "a/.publish-x/4/model.onnx", ".git/1/model.onnx", "lost+found/1/model.onnx", "README.md")
    assert {name: sorted(found) for name, found in look(tmp_path).models.items()} == {"a": [1]}


@pytest.mark.parametrize("name", ["liveness", "two words", "größe", "a:b", "-a", "a\nb", "a" * 129])
def test_names_are_checked(tmp_path: Path, name: str) -> None:
    """A folder that cannot be a model is refused by its name, and not looked into."""
    lay(tmp_path, f"{name}/1/model.onnx")
    seen = look(tmp_path)
    assert (list(seen.models), list(seen.refused)) == ([], [name])
    assert repr(name) in seen.refused[name]


@pytest.mark.parametrize("linked", ["a", "a/1", "a/1/model.onnx", "a/1/w/x.bin"])
def test_links_out(tmp_path: Path, linked: str) -> None:
    """A link out of the repository is refused, be it a model, a version or a file of one."""
    root, outside = tmp_path / "models", tmp_path / "outside"
    lay(outside, "1/model.onnx", "model.onnx")
    lay(root, "b/1/model.onnx", *(["a/1/model.onnx"] if linked == "a/1/w/x.bin" else []))
    (root / linked).parent.mkdir(parents=True, exist_ok=True)
    (root / linked).symlink_to(outside / "model.onnx" if linked.count("/") > 1 else outside)
    seen = look(root)
    why = seen.refused["a"] if linked == "a" else seen.models["a"][1].refused
    assert "is a link out of the repository" in why
    assert look_at(root, "a") == seen.models.get("a", {})


def test_links_inside(tmp_path: Path) -> None:
    """Links that stay inside are followed: a mounted ConfigMap is one to a hidden folder with a time for its name."""
    lay(tmp_path, "..2026_01/a/1/model.onnx", "a.txt")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "a").symlink_to("..data/a")
    before = look(tmp_path)
    assert list(before.models["a"]) == [1]
    lay(tmp_path, "..2026_02/a/1/model.onnx", "..2026_02/a/2/model.onnx")
    (tmp_path / "..new").symlink_to("..2026_02")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert sorted(look(tmp_path).models["a"]) == [1, 2]


def test_a_volume_as_a_version(tmp_path: Path) -> None:
    """A ConfigMap mounted as a version's folder has a link for each file; all of them change by one rename."""
    lay(tmp_path, "a/1/..2026_01/model.onnx", "a/1/..2026_01/w.bin", "a/1/..2026_02/model.onnx", "a/1/..2026_02/w.bin")
    (tmp_path / "a/1/..data").symlink_to("..2026_01")
    for name in ("model.onnx", "w.bin"):
        (tmp_path / "a/1" / name).symlink_to(f"..data/{name}")
    before = look(tmp_path).models["a"][1]
    (tmp_path / "a/1/..new").symlink_to("..2026_02")
    (tmp_path / "a/1/..new").rename(tmp_path / "a/1/..data")
    after = look(tmp_path).models["a"][1]
    assert places(before) == places(after) == ["model.onnx", "w.bin"]
    assert before != after


def test_link_in_a_circle(tmp_path: Path) -> None:
    """A folder that leads round in a circle is refused, and the look ends."""
    lay(tmp_path, "a/1/model.onnx")
    (tmp_path / "a/1/again").symlink_to(".")
    assert "deep" in look(tmp_path).models["a"][1].refused


def test_too_many_files(tmp_path: Path) -> None:
    """A version of too many files is refused by the limit."""
    lay(tmp_path, "a/1/model.onnx", *(f"a/1/{number}" for number in range(MAX_FILES)))
    assert f"{MAX_FILES:,} files" in look(tmp_path).models["a"][1].refused


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: socket.socket(socket.AF_UNIX).bind(str(path))])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_special_files(tmp_path: Path, make: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, a socket or a device among a version's files is refused; nobody opens it."""
    lay(tmp_path, "a/1/labels.txt")
    monkeypatch.chdir(tmp_path / "a/1")
    make(Path("model.onnx"))
    assert "no plain file" in look(tmp_path).models["a"][1].refused


def test_a_device(tmp_path: Path) -> None:
    """A device is refused, whoever could make one."""
    tree = {
        tmp_path: [Entry("a", stat.S_IFDIR)],
        tmp_path / "a": [Entry("1", stat.S_IFDIR)],
        tmp_path / "a/1": [Entry("model.onnx", stat.S_IFBLK)],
    }
    assert "model.onnx is no plain file" in look(tmp_path, tree.__getitem__).models["a"][1].refused


Lists = Callable[[Path], list[Entry]]


def failing(place: Path, error: OSError) -> Lists:
    """Return what lists folders, but for one."""

    def read(folder: Path) -> list[Entry]:
        if folder == place:
            raise error
        return read_folder(folder)

    return read


def test_unreadable_model(tmp_path: Path) -> None:
    """A model that cannot be read is told apart from one that is gone, and hides no other."""
    lay(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    seen = look(tmp_path, failing(tmp_path / "a", OSError(5, "Input/output error")))
    assert (list(seen.models), seen.unreadable) == (["b"], {"a": "it cannot be read: Input/output error"})


@pytest.mark.parametrize("place", ["a/2", "a/2/weights"])
def test_unreadable_version(tmp_path: Path, place: str) -> None:
    """A version that cannot be read is refused with the reason, and hides no other."""
    lay(tmp_path, "a/1/model.onnx", "a/2/model.onnx", "a/2/weights/w.bin")
    found = look(tmp_path, failing(tmp_path / place, PermissionError(13, "Permission denied"))).models["a"]
    assert (found[1].refused, found[2].refused) == ("", "its folder cannot be read: Permission denied")


@pytest.mark.parametrize("place", ["a/2", "a/2/weights"])
def test_gone_while_it_is_looked_at(tmp_path: Path, place: str) -> None:
    """A folder that goes between the listing of what it is in and its own is not there, and nothing is said of it."""
    lay(tmp_path, "a/1/model.onnx", "a/2/model.onnx", "a/2/weights/w.bin")
    seen = look(tmp_path, failing(tmp_path / place, FileNotFoundError(2, "No such file or directory")))
    assert (list(seen.models["a"]), seen.unreadable) == ([1], {})


@pytest.mark.parametrize("place", ["b", "a/2", "a/2/model.onnx"])
def test_a_name_of_which_nothing_is_known(tmp_path: Path, place: str) -> None:
    """A link in a circle is told with its place, and hides nothing else."""
    lay(tmp_path, "a/1/model.onnx", *(["a/2/labels.txt"] if place == "a/2/model.onnx" else []))
    (tmp_path / place).symlink_to(tmp_path / place)
    seen = look(tmp_path)
    reason = seen.unreadable["b"] if place == "b" else seen.models["a"][2].refused
    assert "Too many levels of symbolic links" in reason
    assert places(seen.models["a"][1]) == ["model.onnx"]


def test_unread_says_nothing_new() -> None:
    """What was loaded and cannot be read now is told; what never could be is not: that version failed with it."""
    assert unread(Look({"a": {1: UNREAD, 2: UNREAD, 3: ONE}}), {"a": {1: ONE, 2: UNREAD, 3: ONE}}) == {
        "a/1": UNREAD.refused
    }


def test_no_root(tmp_path: Path) -> None:
    """A repository that is not there, or no folder, is an OSError and no empty look."""
    lay(tmp_path, "file")
    for name in ("no", "file"):
        with pytest.raises(OSError, match=name):
            look(tmp_path / name)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/1", "liveness", "none", "file"])
def test_look_at_no_model(tmp_path: Path, name: str) -> None:
    """What is no name of a model in the repository has no versions, and no path is followed."""
    lay(tmp_path, "a/1/model.onnx", "a/1/1/model.onnx", "file")
    assert look_at(tmp_path, name) == {}


@pytest.mark.parametrize(
    ("before", "now", "known", "expected"),
    [
        ({1: ONE}, {1: ONE}, {}, {1: ONE}),  # new, and still
        ({}, {1: ONE}, {}, {}),  # new: one look is not enough
        ({1: ONE}, {1: OTHER}, {}, {}),  # still growing
        ({1: OTHER}, {1: OTHER}, {1: ONE}, {1: OTHER}),  # changed
        ({1: ONE}, {1: OTHER}, {1: ONE}, {1: ONE}),  # changing
        ({1: ONE}, {}, {1: ONE}, {1: ONE}),  # gone in one look
        ({}, {}, {1: ONE}, {}),  # gone
        ({1: UNREAD}, {1: UNREAD}, {1: ONE}, {1: ONE}),  # it may be what it was
        ({1: UNREAD}, {1: UNREAD}, {}, {1: UNREAD}),  # new, and it fails
        ({1: UNREAD}, {1: ONE}, {1: UNREAD}, {1: UNREAD}),  # readable in one look
        ({1: ONE}, {1: ONE, 2: ONE}, {1: ONE}, {1: ONE}),  # one waits, the other does not
    ],
)
def test_two_looks(
    before: dict[int, Files], now: dict[int, Files], known: dict[int, Files], expected: dict[int, Files]
) -> None:
    """A version is new, changed or gone when two looks saw the same; until then it is as it was."""
    assert agreed(Look({"a": before}), Look({"a": now}), {"a": known} if known else {}) == {"a": expected}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (Look(), Look(), {"a": None}),  # the folder is gone
        (Look({"a": {}}), Look(), {}),  # in one look
        (Look(), Look({"a": {}}), {}),  # it is back
        (Look({"a": {1: ONE}}), Look(unreadable={"a": "why"}), {}),
        (Look(unreadable={"a": "why"}), Look(), {}),
        (Look(), Look(refused={"a": "why"}), {}),
    ],
)
def test_a_folder_that_is_gone(before: Look, now: Look, expected: dict[str, None]) -> None:
    """A model is gone when two looks saw no folder; what could not be read says nothing."""
    assert agreed(before, now, {"a": {1: ONE}}) == expected
