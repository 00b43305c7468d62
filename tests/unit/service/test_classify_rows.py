"""Files and folders to rows."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.classify import STDIN, Row, pictures, print_table, rows
from service.client import Category
from service.errors import DeadlineExceeded, InferenceFailed, NotAllowed, Overloaded, SaccadeError, SetupError
from tests.fakes import Job


def asked(error: SaccadeError, *, of: bytes) -> list[Row]:
    """Return the rows of two pictures, one of which fails."""

    def classify(encoded: bytes) -> tuple[str, str, Sequence[Category]]:
        if encoded == of:
            raise error
        return "model", "1", [Category(0, "cat", 1.0)]

    return list(rows([Path("one"), Path("two")], classify))


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two files at hand."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("too late"),
        InferenceFailed("not finite"),
        Overloaded("full", reason="queue_full", retry_after=0.1),
    ],
)
def test_a_picture_that_fails(error: SaccadeError) -> None:
    """A picture that was too late, refused or not answered is a row with the reason; the others keep theirs."""
    first, second = asked(error, of=b"one")
    assert first.error == str(error)
    assert second.categories


def test_what_fails_for_every_picture() -> None:
    """What would befall every picture ends the command."""
    with pytest.raises(NotAllowed):
        asked(NotAllowed("no token"), of=b"one")


def test_a_name_that_cannot_be(tmp_path: Path) -> None:
    """A name that no file can have is an error in words, not a traceback."""
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(SetupError):
            pictures([tmp_path / name])


def test_a_folder_with_folders(tmp_path: Path) -> None:
    """The pictures of a folder are those below it too, by name."""
    for name in ("b.png", "a/c.JPG", "a/notes.txt"):
        (tmp_path / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "album" / name).touch()
    assert pictures([tmp_path / "album"]) == [tmp_path / "album/a/c.JPG", tmp_path / "album/b.png"]


def test_left_while_pictures_are_under_way() -> None:
    """Who leaves, as Ctrl-C does, does not wait for the pictures that are under way."""
    held = threading.Event()

    def classify(encoded: bytes) -> tuple[str, str, Sequence[Category]]:
        if encoded == b"two":
            held.wait()
        return "model", "1", [Category(0, "cat", 1.0)]

    found = rows([Path("one"), Path("two")], classify)
    next(found)
    left = Job(found.close)  # type: ignore[attr-defined]
    try:
        left.answer()
    finally:
        held.set()


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard input is closed, `-` is an error in words."""
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SetupError, match="standard input is closed"):
        list(rows([STDIN], lambda _: ("model", "1", [])))


def test_an_error_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in an error, as around an address, are no markup and are shown."""
    print_table([Row("one.png", error="[fd00::5]:8001: no [/red] answer")], top_k=1)
    assert "[fd00::5]:8001: no [/red] answer" in capsys.readouterr().out
