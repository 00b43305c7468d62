import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from service.errors import InvalidInput, SetupError, Unavailable, UnknownModel
from service.metrics import Metrics
from service.repository import Repository
from service.rpc.calls import Call
from service.rpc.classifier import Classifier
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.switch import Load
from service.versions import State
from tests.conftest import Lines
from tests.loads import REJECTED, FakeModel, Loads

Make = Callable[..., Repository]


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of their own."""
    return Metrics()


@pytest.fixture
def make(tmp_path: Path, metrics: Metrics) -> Make:
    """Return what makes a repository of these versions, not yet scanned."""

    def lay(*versions: str, load: Load | None = None, keep: int = 3, default: str | None = None) -> Repository:
        for version in versions:
            (tmp_path / version).mkdir(parents=True)
            (tmp_path / version / "model.onnx").touch()
        return Repository(tmp_path, load or Loads(), keep_versions=keep, default_model=default, metrics=metrics)

    return lay


def loaded(repository: Repository) -> Repository:
    """Scan a repository and load it."""
    repository.scan()
    repository.load_all()
    return repository


def served(repository: Repository, name: str = "", version: str = "") -> str:
    """Return what answers a request."""
    facts = repository.find(name, version).facts
    return f"{facts.name}/{facts.version}"


@pytest.mark.parametrize(("failing", "best"), [([], 10), (["a/10"], 9), (["a/10", "a/9"], 1), (["a/9"], 10)])
def test_highest_that_passes(failing: list[str], best: int, make: Make) -> None:
    """The highest version that passes is served, by number and not by text."""
    assert served(loaded(make("a/1", "a/9", "a/10", load=Loads(*failing))), "a") == f"a/{best}"


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_named_version(version: str, make: Make) -> None:
    """A version that the request names is the one that answers."""
    assert served(loaded(make("a/1", "a/2", "a/3")), "a", version) == f"a/{version}"


def test_named_version_failed(make: Make) -> None:
    """A version that failed and is named is not replaced by another; why it failed is told."""
    repository = loaded(make("a/1", "a/2", load=Loads("a/2")))
    with pytest.raises(Unavailable, match="version 2 of 'a' failed: cpu: self-test: golden sample 0 is wrong"):
        repository.find("a", "2")


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [("c", "", "no model 'c' here; there are: a, b"), ("a", "4", "no version 4 of 'a'; there are: 2, 10")],
)
def test_unknown(name: str, version: str, text: str, make: Make) -> None:
    """An unknown model or version is told with those there are."""
    with pytest.raises(UnknownModel, match=text):
        loaded(make("b/1", "a/10", "a/2")).find(name, version)


@pytest.mark.parametrize("version", ["x", "0", "-1", "1.0", "01", " 1", "1\n", "\u0661", "9" * 60])
def test_no_version(version: str, make: Make) -> None:
    """A version that is no whole number is refused by its field, and briefly."""
    with pytest.raises(InvalidInput, match="must be a whole number") as caught:
        loaded(make("a/1")).find("a", version)
    assert (caught.value.field, len(str(caught.value)) < 120) == ("version", True)


@pytest.mark.parametrize(("versions", "default"), [(["b/1"], None), (["a/1", "b/1", "c/1"], "b")])
def test_nothing_named(versions: list[str], default: str | None, make: Make) -> None:
    """A request that names no model gets the only or the default one."""
    assert served(loaded(make(*versions, default=default))) == "b/1"


def test_no_model_named(make: Make) -> None:
    """A request that names no model where there are several is refused by its field, with their names."""
    with pytest.raises(InvalidInput, match=r"^model: .*name one of: a, b"):
        loaded(make("a/1", "b/1")).find("", "")


@pytest.mark.parametrize(("default", "expected"), [(None, None), ("b", "b")])
def test_default(default: str | None, expected: str | None, make: Make) -> None:
    """What a request that names nothing would get is known, where there is such a model."""
    model = loaded(make("a/1", "b/1", default=default)).default()
    assert (model and model.facts.name) == expected


def test_no_such_default(make: Make) -> None:
    """A default model that is not there is a SetupError with the names of those there are."""
    with pytest.raises(SetupError, match="--default-model c is not in the repository; there are: a, b"):
        make("a/1", "b/1", default="c").scan()


@pytest.mark.parametrize(
    ("failing", "asked"),
    [([], ["a/5", "a/4"]), (["a/4"], ["a/5", "a/4", "a/3"]), (["a/5", "a/4"], ["a/5", "a/4", "a/3", "a/2"])],
)
def test_keep_versions(failing: list[str], asked: list[str], make: Make) -> None:
    """As many versions as are kept are loaded, the highest first; one that fails does not count."""
    load = Loads(*failing)
    loaded(make("a/1", "a/2", "a/3", "a/4", "a/5", load=load, keep=2))
    assert load.asked == asked


def test_versions(make: Make) -> None:
    """All versions that were tried are listed by model, the highest first, with their state and reason."""
    repository = loaded(make("b/1", "a/2", "a/10", "a/1", load=Loads("a/10"), keep=1))
    assert [(entry.name, entry.version, entry.state, entry.reason) for entry in repository.versions()] == [
        ("a", 10, State.FAILED, str(REJECTED)),
        ("a", 2, State.READY, ""),
        ("b", 1, State.READY, ""),
    ]


def test_loading(make: Make) -> None:
    """Until it is loaded, a version is told as being loaded, and its model is not ready."""
    repository = make("a/1")
    repository.scan()
    assert repository.readiness() == {"a": False}
    with pytest.raises(Unavailable, match="version 1 of 'a' is being loaded"):
        repository.find("a", "")


def test_unexpected_failure(make: Make) -> None:
    """A load that fails unexpectedly marks its version failed, without a library's words, and keeps no other back."""
    repository = loaded(make("a/1", "b/1", load=Loads("a/1", error=RuntimeError("secret words"))))
    assert [(entry.state, entry.reason) for entry in repository.versions()] == [
        (State.FAILED, "it could not be loaded; the log says why"),
        (State.READY, ""),
    ]


@pytest.mark.parametrize(("failing", "expected"), [([], True), (["a/2"], True), (["a/1", "a/2"], False)])
def test_readiness(failing: list[str], expected: bool, make: Make) -> None:  # noqa: FBT001 - parametrized
    """A model is ready where a version of it is served."""
    repository = loaded(make("a/1", "a/2", "b/1", load=Loads(*failing)))
    assert repository.readiness() == {"a": expected, "b": True}


def test_ignored(make: Make, tmp_path: Path) -> None:
    """Hidden folders, files, versions that are no number and versions without a model are no versions."""
    (tmp_path / "README.md").touch()
    (tmp_path / "a" / "3").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    repository = loaded(make("a/1", "a/01", "a/v2", "a/2.tmp", "a/0", "a/.4", ".git/1"))
    assert ([entry.version for entry in repository.versions()], repository.readiness()) == ([1], {"a": True})


@pytest.mark.parametrize(
    ("name", "text"),
    [("no", r"no does not exist; .*ROOT/MODEL/VERSION/model\.onnx"), ("file", "file cannot be read: Not a directory")],
)
def test_no_root(name: str, text: str, tmp_path: Path, metrics: Metrics) -> None:
    """A repository that does not exist or cannot be read is a SetupError with the flag, the path and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=f"--repository .*{text}"):
        Repository(tmp_path / name, Loads(), keep_versions=1, default_model=None, metrics=metrics).scan()


@pytest.mark.parametrize("name", ["liveness", "two words", "größe", "a:b", "-a", "a\nb", "a" * 129])
def test_bad_name(name: str, make: Make) -> None:
    """A model whose name cannot be served is a SetupError that names it."""
    with pytest.raises(SetupError) as caught:
        make(f"{name}/1").scan()
    assert repr(name) in str(caught.value)


def test_a_bad_neighbour(make: Make, tmp_path: Path, lines: Lines) -> None:
    """A folder that can be no model keeps those beside it from nothing, at start as later; the log names it."""
    assert served(loaded(make("a/1", "two words/1"))) == "a/1"
    assert [line["folder"] for line in lines() if line["level"] == "warning"] == [str(tmp_path / "two words")]


def test_an_unreadable_model(make: Make, tmp_path: Path) -> None:
    """A model whose folder cannot be read at start is counted on, and not served."""
    (folder := tmp_path / "b").symlink_to(folder)
    repository = loaded(make("a/1"))
    assert (served(repository, "a"), repository.expected()) == ("a/1", {"a": True, "b": False})


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("saccade_model_ready", {"model": "a"}, 1),
        ("saccade_model_ready", {"model": "b"}, 0),
        ("saccade_model_load_failures_total", {"model": "a", "version": "2"}, 1),
        ("saccade_model_load_failures_total", {"model": "a", "version": "1"}, None),
    ],
)
def test_metrics(name: str, labels: dict[str, str], expected: float | None, make: Make, metrics: Metrics) -> None:
    """Readiness and failed loads are metrics."""
    loaded(make("a/1", "a/2", "b/1", load=Loads("a/2", "b/1")))
    assert metrics.registry.get_sample_value(name, labels) == expected


def test_a_file_whose_name_is_no_utf_8(make: Make, tmp_path: Path) -> None:
    """ListModels tells of a version that is refused for a file whose name is no UTF-8, its bytes escaped."""
    repository = make("a/1")
    os.mkfifo(os.fsencode(tmp_path / "a/1") + b"/\xff")
    call = Call(None, lambda _: False, alone=True)
    [model] = Classifier(loaded(repository)).list_models(pb.ListModelsRequest(), call).models
    assert model.reason == "\\udcff is no plain file, but a device, a pipe or a socket"


def test_close_drains(make: Make) -> None:
    """Closing drains every version that is served, for no more than the seconds given."""
    repository = loaded(make("a/1", "a/2", "b/1", load=Loads("a/2")))
    models = [cast("FakeModel", repository.find(name, "")) for name in ("a", "b")]
    repository.close(1.5)
    assert [len(model.drained) for model in models] == [1, 1]
    assert all(0 < model.drained[0] <= 1.5 for model in models)


def test_closed(make: Make) -> None:
    """A closed repository has no ready model."""
    (repository := loaded(make("a/1"))).close(0)
    assert (repository.readiness(), repository.versions()[0].state) == ({"a": False}, State.DRAINING)


def test_closed_metric(make: Make, metrics: Metrics) -> None:
    """A closed repository's models are no longer ready in the metrics either."""
    loaded(make("a/1")).close(0)
    assert metrics.registry.get_sample_value("saccade_model_ready", {"model": "a"}) == 0
