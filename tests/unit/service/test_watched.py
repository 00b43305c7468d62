"""Files that are read again when they change."""

import os
from pathlib import Path

import pytest

from service.errors import SetupError
from service.watched import Watched
from tests.conftest import Lines
from tests.disk import tick


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file that says "old"."""
    path = tmp_path / "file"
    path.write_text("old")
    return path


@pytest.fixture
def watched(path: Path) -> Watched[str]:
    """Return what watches the file; "bad" in it cannot be used."""
    return Watched("words", [path], lambda: read(path))


def read(path: Path) -> str:
    """Read the file, unless it is bad."""
    try:
        text = path.read_text()
    except OSError:
        raise SetupError("not there") from None
    if text == "bad":
        raise SetupError("it is bad")
    return text


def test_unchanged(watched: Watched[str], lines: Lines) -> None:
    """A file that does not change is never read again, and nothing is logged."""
    before = watched.value
    for _ in range(3):
        watched.look()
    assert watched.value is before
    assert lines() == []


def test_changed(watched: Watched[str], path: Path, lines: Lines) -> None:
    """A changed file counts when two looks agree, and the log says so once."""
    path.write_text("newer")
    watched.look()
    assert watched.value == "old"
    for _ in range(3):
        watched.look()
    assert watched.value == "newer"
    assert [line["event"] for line in lines()] == ["words read again"]


def test_changing(watched: Watched[str], path: Path) -> None:
    """A file that differs at every look is being written, and does not count yet."""
    for length in range(4, 8):
        path.write_text("x" * length)
        watched.look()
    assert watched.value == "old"


def test_bad(watched: Watched[str], path: Path, lines: Lines) -> None:
    """What cannot be used leaves the old value, and is logged once, with the reason."""
    tick(path.parent)
    path.write_text("bad")
    for _ in range(5):
        watched.look()
    assert watched.value == "old"
    [line] = lines()
    assert (line["level"], line["reason"]) == ("warning", "it is bad")


def test_mended(watched: Watched[str], path: Path) -> None:
    """What was bad and is mended counts."""
    path.write_text("bad")
    watched.look()
    watched.look()
    path.write_text("good")
    watched.look()
    watched.look()
    assert watched.value == "good"


def test_tried_again(path: Path, lines: Lines) -> None:
    """What cannot be read for a while counts when it can, though the file stays as it is; that is logged once."""
    failing = False

    def make() -> str:
        if failing:
            raise SetupError("too many open files")
        return read(path)

    watched = Watched("words", [path], make)
    path.write_text("newer")
    failing = True
    for _ in range(3):
        watched.look()
    failing = False
    watched.look()
    assert watched.value == "newer"
    assert [line["event"] for line in lines()] == [
        "words changed and cannot be used; the old ones stay",
        "words read again",
    ]


def test_mode_changed(path: Path) -> None:
    """A file whose mode alone changed is read again: perhaps it can be read only now."""
    made = list[str]()

    def make() -> str:
        made.append(read(path))
        return made[-1]

    watched = Watched("words", [path], make)
    tick(path.parent)
    path.chmod(0o600)
    for _ in range(3):
        watched.look()
    assert len(made) == 2


def test_gone_and_back(watched: Watched[str], path: Path, lines: Lines) -> None:
    """A file that is gone leaves the old value, logged once; the same words back again are no news."""
    before = path.stat().st_mtime_ns
    path.unlink()
    for _ in range(3):
        watched.look()
    path.write_text("old")
    os.utime(path, ns=(before, before))
    for _ in range(3):
        watched.look()
    assert watched.value == "old"
    assert [line["reason"] for line in lines()] == ["not there"]


def test_link_changed(watched: Watched[str], path: Path, tmp_path: Path) -> None:
    """A link that is turned to another file counts: so Kubernetes changes a mounted Secret."""
    (tmp_path / "other").write_text("new")
    os.utime(tmp_path / "other", ns=(path.stat().st_mtime_ns,) * 2)
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "link").replace(path)
    watched.look()
    watched.look()
    assert watched.value == "new"
