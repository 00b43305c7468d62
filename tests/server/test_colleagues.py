"""What a server tells those that share its port."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from service.config import Settings
from service.counts import Counts
from service.rpc import health
from service.rpc.inference import Change
from service.server import Server
from tests.conftest import Channel
from tests.fakes import WAIT, Job
from tests.loads import Loads


class Told:
    """Colleagues that note what they hear."""

    def __init__(self) -> None:
        self.heard: list[tuple[bool, list[str]]] = []
        self.loads: list[str] = []
        self.counted = threading.Event()
        self.counted.set()

    def change(self, change: Change, model: str) -> None:
        """Is asked by callers only."""

    def counts(self, versions: Sequence[tuple[str, int]]) -> list[Counts]:
        """Return nothing counted, once the test lets it."""
        self.counted.wait(WAIT)
        return [Counts() for _ in versions]

    def tell(self, *, ready: bool, models: Sequence[str]) -> None:
        """Note it."""
        self.heard.append((ready, list(models)))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Note when a version was loaded."""
        self.loads.append("begins")
        yield
        self.loads.append("ends")


@pytest.fixture
def told() -> Told:
    """Return colleagues."""
    return Told()


@pytest.fixture
def closed(tmp_path: Path, told: Told) -> Iterator[Server]:
    """Return a server of models a and b that has not looked at them."""
    for name in ("a", "b"):
        lay(tmp_path, name)
    settings = Settings(repository=tmp_path, poll_seconds=0, host="127.0.0.1", grpc_port=0)
    server = Server(settings, load=Loads(), colleagues=told)
    yield server
    server.drain(delay=0, refuse=0)


@pytest.fixture
def server(closed: Server) -> Server:
    """Return a server of models a and b that neither listens nor has loaded them."""
    closed.open()
    return closed


def lay(root: Path, name: str) -> None:
    """Put version 1 of a model on disk."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.onnx").touch()


def test_told_once_all_is_loaded(server: Server, told: Told) -> None:
    """They hear nothing until every model was loaded, though one of two is READY before the other."""
    server.load()
    assert told.heard == [(True, ["a", "b"])]


def test_told_of_changes(server: Server, told: Told) -> None:
    """They hear of what is served no more."""
    server.load()
    server.change("unload", "a")
    assert told.heard[-1] == (True, ["b"])


def test_an_unload_meanwhile(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is unloaded while the health is being told of is not SERVING in the end."""
    server.load()
    expected, jobs, here = server.repository.expected, list[Job[None]](), threading.current_thread()

    def unload_meanwhile() -> dict[str, bool]:
        if threading.current_thread() is here and not jobs:
            jobs.append(Job(lambda: server.change("unload", "a")))
            jobs[0].join(0.2)  # it may be waiting for this thread
        return expected()

    monkeypatch.setattr(server.repository, "expected", unload_meanwhile)
    server._report_health()
    jobs[0].answer()
    assert server._health._statuses["a"] == health.NOT_SERVING


def test_told_of_each_load(server: Server, told: Told) -> None:
    """They know while a version is loaded: answers may be late then."""
    server.load()
    assert told.loads == ["begins", "ends"] * 2


def test_unloaded_and_not_there(closed: Server, tmp_path: Path) -> None:
    """What the others had unloaded, and is not there at start, is not served when it comes back."""
    closed.open(without=["c"])
    closed.load()
    lay(tmp_path, "c")
    for _ in range(3):
        closed.repository.refresh(0.0)
    assert closed.served() == ["a", "b"]


def test_unloaded_and_unreadable(closed: Server, tmp_path: Path) -> None:
    """What the others had unloaded, and cannot be read at start, keeps nobody from being READY."""
    (folder := tmp_path / "c").symlink_to(folder)
    closed.open(without=["c"])
    closed.load()
    assert closed.ready()


def test_counts_hold_nobody(server: Server, told: Told, channel: Channel) -> None:
    """Callers who wait for what the others counted keep nobody from hearing that this server lives."""
    server.load()
    server.listen()
    opened = channel(server)
    told.counted.clear()
    ask: Callable[[str], grpc.UnaryUnaryMultiCallable[bytes, bytes]] = opened.unary_unary
    statistics = ask("/inference.GRPCInferenceService/ModelStatistics")
    waiting = [statistics.future(b"", timeout=WAIT) for _ in range(8)]
    assert ask("/inference.GRPCInferenceService/ServerLive")(b"", timeout=WAIT / 2)
    assert not any(each.done() for each in waiting)
    told.counted.set()
    assert [each.result() for each in waiting]
