import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export import data
from export.data.download import SETS, Files, fetch
from service.errors import SetupError


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    asked: list[str]

    def do_GET(self) -> None:
        """Remember what was asked for."""
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path, asked: list[str]) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yield its address."""
    handler = type("Handler", (Quiet,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """Write the file that is served; return its content."""
    (tmp_path / "there").mkdir()
    written = bytes(range(256)) * 10_000
    (tmp_path / "there/some.gz").write_bytes(written)
    return written


def one(address: str, content: bytes) -> dict[str, Files]:
    """Return a set of one file."""
    return {"some": Files(address, {"some.gz": hashlib.md5(content, usedforsecurity=False).hexdigest()})}


def test_fetched(tmp_path: Path, content: bytes) -> None:
    """A file whose sum is right is kept under its name, told of as it comes, and not asked for again."""
    asked: list[str] = []
    told: list[tuple[str, int, int]] = []
    with served(tmp_path / "there", asked) as address:
        for _ in range(2):
            fetch("some", tmp_path / "here", sets=one(address, content), on_bytes=lambda *done: told.append(done))
    assert (tmp_path / "here/some.gz").read_bytes() == content
    assert told[-1] == ("some.gz", len(content), len(content))
    assert asked == ["/some.gz"]


def test_wrong_sum(tmp_path: Path, content: bytes) -> None:
    """A file of another sum is an error with both sums, and nothing is kept."""
    with (
        served(tmp_path / "there", []) as address,
        pytest.raises(SetupError, match="should be 900150983cd24fb0d6963f7d28e17f72"),
    ):
        fetch("some", tmp_path / "here", sets=one(address, b"abc"))
    assert list((tmp_path / "here").iterdir()) == []


def test_missing_file(tmp_path: Path, content: bytes) -> None:
    """A file that the server does not have is an error with its address and what to do, and nothing is kept."""
    (tmp_path / "there/some.gz").unlink()
    with served(tmp_path / "there", []) as address, pytest.raises(SetupError, match=r"some\.gz could not be fetched"):
        fetch("some", tmp_path / "here", sets=one(address, content))
    assert list((tmp_path / "here").iterdir()) == []


def test_no_server(tmp_path: Path, content: bytes) -> None:
    """A server that does not answer is an error that says where to put the file."""
    with served(tmp_path / "there", []) as address:
        pass
    with pytest.raises(SetupError, match=r"put some\.gz into"):
        fetch("some", tmp_path / "here", sets=one(address, content))


def test_fetched_twice_at_once(tmp_path: Path, content: bytes) -> None:
    """What another command fetches meanwhile, and does not end, changes nothing of the file."""
    here = tmp_path / "here"

    def other(*_: object) -> None:
        (here / "some.gz.partial").write_bytes(b"of another one")

    with served(tmp_path / "there", []) as address:
        fetch("some", here, sets=one(address, content), on_bytes=other)
    assert (here / "some.gz").read_bytes() == content
    assert (here / "some.gz.partial").read_bytes() == b"of another one"


def test_what_is_no_web_server(tmp_path: Path) -> None:
    """A server that does not speak HTTP is an error that says where to put the file."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"who is there?\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(SetupError, match=r"put some\.gz into"):
            fetch("some", tmp_path / "here", sets=one(f"http://127.0.0.1:{listener.getsockname()[1]}/", b"abc"))
        thread.join()


def test_unknown_set(tmp_path: Path) -> None:
    """A data set without a public address is an error that names those with one."""
    with pytest.raises(SetupError, match="mnist, fashion-mnist, cifar10"):
        fetch("digits", tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_fetched_sets_can_be_loaded(name: str) -> None:
    """Every data set with a public address is one that can be trained on by its name."""
    assert name in data.NAMES


@pytest.mark.parametrize("files", SETS.values(), ids=list(SETS))
def test_sums_are_md5(files: Files) -> None:
    """Every file has an MD5 sum of 32 hexadecimal digits, no two the same."""
    assert all(len(digest) == 32 and int(digest, 16) for digest in files.sums.values())
    assert len(set(files.sums.values())) == len(files.sums)
