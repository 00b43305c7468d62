"""Versions that come and go while others are served."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from service.config import Settings
from service.errors import InvalidInput, Unavailable, UnknownModel
from service.metrics import Metrics
from service.model import Model
from service.repository import Repository
from service.rpc.calls import Call
from service.rpc.inference import Inference
from service.rpc.pb.inference import service_pb2 as pb
from service.versions import State
from tests.fakes import WAIT, Job
from tests.loads import FakeModel, Loads

Lay = Callable[..., None]


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of their own."""
    return Metrics()


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Return what puts versions on disk."""

    def put(*versions: str) -> None:
        for version in versions:
            (tmp_path / version).mkdir(parents=True)
            (tmp_path / version / "model.onnx").touch()

    return put


@pytest.fixture
def loads() -> Loads:
    """Return what loads fakes."""
    return Loads()


@pytest.fixture
def repository(tmp_path: Path, lay: Lay, loads: Loads, metrics: Metrics) -> Repository:
    """Return a repository that serves version 1 of a and of b, and keeps two versions of a model."""
    lay("a/1", "b/1")
    repository = Repository(tmp_path, loads, keep_versions=2, default_model=None, metrics=metrics)
    repository.scan()
    repository.load_all()
    return repository


def served(repository: Repository, name: str = "", version: str = "") -> str:
    """Return what answers a request."""
    facts = repository.find(name, version).facts
    return f"{facts.name}/{facts.version}"


def states(repository: Repository, name: str = "a") -> dict[int, State]:
    """Return the state of each version of a model."""
    return {entry.version: entry.state for entry in repository.versions() if entry.name == name}


def test_new_version(repository: Repository, lay: Lay, loads: Loads) -> None:
    """A new version is loaded beside the old one, which is not loaded again."""
    lay("a/2")
    repository.load("a", 1.0)
    assert states(repository) == {1: State.READY, 2: State.READY}
    assert loads.asked == ["a/1", "b/1", "a/2"]
    assert (served(repository, "a"), served(repository, "a", "1")) == ("a/2", "a/1")


def test_each_change_of_what_serves_is_told(repository: Repository, lay: Lay) -> None:
    """Whoever listens hears of each version that takes over, and of one that is let go before it is drained."""
    heard: list[list[str]] = []

    def listen() -> None:
        ready = [entry for entry in repository.versions() if entry.name == "a" and entry.state is State.READY]
        heard.append([f"{entry.version}" for entry in ready])

    repository.on_change(listen)
    lay("a/2", "a/3")
    repository.load("a", 1.0)
    assert heard == [["3", "1"], ["3", "2", "1"], ["3", "2"]]


@pytest.mark.parametrize("version", ["", "1"])
def test_a_model_that_is_let_go_is_not_ready(version: str, repository: Repository) -> None:
    """ModelReady is false from when a model is let go, not only from when its last call is answered."""
    inference = Inference(repository, Settings(), ready=bool, change=lambda *_: None, counts=lambda _: [])

    def ready() -> bool:
        call = Call(None, lambda _: False, alone=True)
        return inference.model_ready(pb.ModelReadyRequest(name="a", version=version), call).ready

    heard: list[bool] = [ready()]
    cast("FakeModel", repository.find("a", "")).drain = lambda _: heard.append(ready())
    repository.unload("a", 1.0)
    assert heard == [True, False]


def test_no_longer_kept(repository: Repository, lay: Lay) -> None:
    """A version beyond those that are kept is drained and let go, once the newer ones are served."""
    oldest = cast("FakeModel", repository.find("a", "1"))
    lay("a/2", "a/3")
    repository.load("a", 1.5)
    assert states(repository) == {2: State.READY, 3: State.READY}
    assert [0 < seconds <= 1.5 for seconds in oldest.drained] == [True]


def test_new_model(repository: Repository, lay: Lay, metrics: Metrics) -> None:
    """A model that was not there is served, and counted on from then on."""
    lay("c/1")
    repository.load("c", 1.0)
    assert served(repository, "c") == "c/1"
    assert repository.expected() == {"a": True, "b": True, "c": True}
    assert metrics.registry.get_sample_value("saccade_model_ready", {"model": "c"}) == 1


@pytest.mark.parametrize("new", ["a/2", "c/1"])
def test_no_load_while_it_drains(new: str, repository: Repository, lay: Lay, loads: Loads) -> None:
    """A load of a new version or model is refused once the server drains, as nothing would come of it."""
    lay(new)
    repository.stop()
    with pytest.raises(Unavailable, match="draining; try another server"):
        repository.load(new[0], 1.0)
    assert loads.asked == ["a/1", "b/1"]


def test_a_load_that_a_drain_cuts_short(repository: Repository, lay: Lay, loads: Loads) -> None:
    """A load is refused, too, where the server began to drain before all of it was done."""
    lay("a/2", "a/3")
    loads.meanwhile = repository.stop
    with pytest.raises(Unavailable, match="draining; try another server"):
        repository.load("a", 1.0)
    assert loads.asked == ["a/1", "b/1", "a/3"]


@pytest.mark.parametrize("new", ["b/1", "a/3"])
def test_a_load_before_those_of_the_start(new: str, tmp_path: Path, lay: Lay, loads: Loads, metrics: Metrics) -> None:
    """What came after the first look, and was loaded by name before all others are, is served beside them."""
    lay("a/1", "a/2", "c/1")
    repository = Repository(tmp_path, loads, keep_versions=1, default_model=None, metrics=metrics)
    repository.scan()
    lay(new)
    repository.load(new[0], 1.0)
    repository.load_all()
    assert loads.asked[0] == new
    assert all(repository.readiness().values())
    assert served(repository, new[0]) == new


def test_new_version_fails(repository: Repository, lay: Lay, loads: Loads) -> None:
    """A version that fails is told with its reason and what is served instead; the old one stays."""
    lay("a/2")
    loads.failing = ("a/2",)
    with pytest.raises(Unavailable, match=r"failed to load version 2 of 'a': cpu: self-test.*; versions served: 1"):
        repository.load("a", 1.0)
    assert (served(repository, "a"), states(repository)) == ("a/1", {1: State.READY, 2: State.FAILED})
    assert repository.expected() == {"a": True, "b": True}


def test_new_model_fails(repository: Repository, lay: Lay, loads: Loads) -> None:
    """A new model that fails is told, and what is counted on is what it was."""
    lay("c/1")
    loads.failing = ("c/1",)
    with pytest.raises(Unavailable, match=r"failed to load version 1 of 'c'.*versions served: none"):
        repository.load("c", 1.0)
    assert (repository.readiness()["c"], repository.expected()) == (False, {"a": True, "b": True})


def test_failed_before(repository: Repository, lay: Lay, loads: Loads) -> None:
    """A version that failed is tried again when it is asked for, and one that vanished is forgotten."""
    lay("a/2")
    loads.failing = ("a/2",)
    with pytest.raises(Unavailable):
        repository.load("a", 1.0)
    loads.failing = ()
    repository.load("a", 1.0)
    assert states(repository) == {1: State.READY, 2: State.READY}


def test_older_version_failed(repository: Repository, lay: Lay, loads: Loads) -> None:
    """Only the highest version's failure is the load's."""
    lay("a/2", "a/3")
    loads.failing = ("a/2",)
    repository.load("a", 1.0)
    assert states(repository) == {1: State.READY, 2: State.FAILED, 3: State.READY}


def test_gone_from_disk(repository: Repository, lay: Lay, tmp_path: Path) -> None:
    """A version whose file is gone is let go, once another is served."""
    lay("a/2")
    (tmp_path / "a/1/model.onnx").unlink()
    repository.load("a", 1.0)
    assert states(repository) == {2: State.READY}


@pytest.mark.parametrize("name", ["c", "", ".", "..", "../a", "a/1", "/", "liveness", "a" * 129])
def test_load_nothing(repository: Repository, tmp_path: Path, name: str) -> None:
    """What the repository does not hold is unknown, and what is no name is never looked for."""
    (tmp_path.parent / "model.onnx").touch()
    with pytest.raises(UnknownModel, match=r"failed to load .*; served are: a, b"):
        repository.load(name, 1.0)
    assert repository.readiness() == {"a": True, "b": True}


def test_unload(repository: Repository, metrics: Metrics) -> None:
    """An unloaded model is drained, unknown, and no longer counted on."""
    model = cast("FakeModel", repository.find("a", ""))
    repository.unload("a", 1.5)
    assert 0 < model.drained[0] <= 1.5
    with pytest.raises(UnknownModel, match="no model 'a' here; there are: b"):
        repository.find("a", "")
    assert (repository.readiness(), repository.expected()) == ({"b": True}, {"b": True})
    assert metrics.registry.get_sample_value("saccade_model_ready", {"model": "a"}) is None


def test_unloaded_before_it_was_loaded(tmp_path: Path, lay: Lay, loads: Loads, metrics: Metrics) -> None:
    """A model that is unloaded before the first load is never loaded, and stays away."""
    lay("a/1", "b/1")
    repository = Repository(tmp_path, loads, keep_versions=2, default_model=None, metrics=metrics)
    repository.scan()
    repository.unload("a", 0.0)
    repository.load_all()
    assert loads.asked == ["b/1"]
    for _ in range(3):
        repository.refresh(1.0)
    assert repository.readiness() == {"b": True}


def test_left_out_before_it_is_there(repository: Repository, lay: Lay, loads: Loads) -> None:
    """A model that was unloaded while nobody could see it here stays away when it comes, until it is loaded by name."""
    repository.leave_out(["c"])
    lay("c/1")
    for _ in range(3):
        repository.refresh(1.0)
    assert "c" not in repository.readiness()
    repository.load("c", 1.0)
    assert (served(repository, "c"), loads.asked) == ("c/1", ["a/1", "b/1", "c/1"])


def test_the_only_one_left(repository: Repository) -> None:
    """A request that names no model gets the only one left, and a failed newcomer does not change that."""
    with pytest.raises(InvalidInput):
        repository.find("", "")
    repository.unload("a", 1.0)
    assert served(repository) == "b/1"


def test_a_failed_newcomer(repository: Repository, lay: Lay, loads: Loads) -> None:
    """A new model that fails leaves the only one the default."""
    repository.unload("a", 1.0)
    lay("c/1")
    loads.failing = ("c/1",)
    with pytest.raises(Unavailable):
        repository.load("c", 1.0)
    assert served(repository) == "b/1"


def uses_up(model: FakeModel) -> FakeModel:
    """Let a model's drain take all the time that it is given."""

    def drain(seconds: float) -> None:
        model.drained.append(seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    model.drain = drain
    return model


@pytest.mark.parametrize("how", ["unload", "close"])
def test_seconds_are_for_all_versions(repository: Repository, lay: Lay, how: str) -> None:
    """What the drain of one version uses up is not there for the next."""
    lay("a/2")
    repository.load("a", 1.0)
    second = uses_up(cast("FakeModel", repository.find("a", "2")))
    first = cast("FakeModel", repository.find("a", "1"))
    if how == "unload":
        repository.unload("a", 0.05)
    else:
        repository.close(0.05)
    assert (len(second.drained), first.drained) == (1, [0.0])


def test_closed_while_a_version_is_loaded(repository: Repository, lay: Lay, loads: Loads) -> None:
    """Closing waits for the load that is under way, and drains what that brought."""
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go.wait(WAIT)

    loads.meanwhile = hold
    lay("a/2")
    old = cast("FakeModel", repository.find("a", "1"))
    load = Job(lambda: repository.load("a", 1.0))
    assert begun.wait(WAIT)
    close, late = Job(lambda: repository.close(WAIT)), time.monotonic() + WAIT
    while not repository._switch.stopped:
        assert time.monotonic() < late
    assert (close.is_alive(), old.drained) == (True, [])
    go.set()
    with pytest.raises(Unavailable, match="draining"):
        load.answer()
    close.answer()
    new = cast("FakeModel", repository.find("a", "2"))
    assert (len(new.drained), len(old.drained)) == (1, 1)


def test_used_just_as_it_is_replaced(repository: Repository, lay: Lay) -> None:
    """A request whose model was replaced just after it was found is answered by the successor."""
    old = repository.find("a", "")

    def begin(model: Model) -> int:
        if model is old:
            lay("a/2")
            repository.load("a", 1.0)
            raise Unavailable("draining")
        return model.facts.version

    assert repository.use("a", "", begin) == 2


def test_used_and_not_replaced(repository: Repository) -> None:
    """A model that refuses and was not replaced is asked once, and its refusal is the caller's."""
    asked: list[Model] = []

    def begin(model: Model) -> None:
        asked.append(model)
        raise Unavailable("draining")

    with pytest.raises(Unavailable, match="draining"):
        repository.use("a", "", begin)
    assert asked == [repository.find("a", "")]


def test_load_from_what_is_no_folder(repository: Repository, tmp_path: Path) -> None:
    """A load by name from a repository that cannot be read finds no version, and what is served stays."""
    shutil.rmtree(tmp_path)
    tmp_path.touch()
    with pytest.raises(UnknownModel, match="the repository has no version of it; served are: a, b"):
        repository.load("a", 0.0)
    assert repository.readiness() == {"a": True, "b": True}


def test_unload_nothing(repository: Repository) -> None:
    """Unloading an unknown model says so."""
    with pytest.raises(UnknownModel, match="no model 'c' here"):
        repository.unload("c", 1.0)


def test_loaded_again(repository: Repository, loads: Loads) -> None:
    """An unloaded model can be loaded again."""
    repository.unload("a", 1.0)
    repository.load("a", 1.0)
    assert (served(repository, "a"), loads.asked) == ("a/1", ["a/1", "b/1", "a/1"])
    assert repository.expected() == {"a": True, "b": True}
