"""Triton's own client against the server: what is in the repository, loaded and let go."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.server import Server
from tests.conftest import StartServer
from tests.fakes import WAIT, HeldSession
from tests.onnx_models import pictures, probabilities, weights, write_model
from tests.triton import Connect, TritonClient, pixels, rows, served

EXPECTED = probabilities(pictures(6), weights())


def index(client: TritonClient, **given: Any) -> list[tuple[str, str, str]]:  # noqa: ANN401 - as the client takes it
    """Return (name, version, state) of each version in the index."""
    models = client.call("get_model_repository_index", **given)["models"]
    return [(model["name"], model["version"], model["state"]) for model in models]


def test_index(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """The index lists every version, a failed one with its reason."""
    write_model(repository / "linear" / "2", wrong_by=0.1)
    client = triton(start_server(repository))
    assert index(client) == [("linear", "2", "UNAVAILABLE"), ("linear", "1", "READY")]
    assert "golden sample" in client.call("get_model_repository_index")["models"][0]["reason"]
    ready = client.do("raw", method="RepositoryIndex", message={"ready": True})
    assert [model["version"] for model in ready["models"]] == ["1"]


@pytest.mark.parametrize("method", ["load_model", "unload_model"])
def test_control_is_off(start_server: StartServer, triton: Connect, repository: Path, method: str) -> None:
    """Loading and unloading are UNIMPLEMENTED unless allowed, and say by which flag."""
    answer = triton(start_server(repository)).call(method, model_name="linear")
    assert answer["status"] == "StatusCode.UNIMPLEMENTED"
    assert "--allow-repository-control" in answer["error"]


@pytest.fixture
def control(start_server: StartServer, triton: Connect, repository: Path) -> TritonClient:
    """Return a client of a server that lets callers load and unload models."""
    return triton(start_server(repository, allow_repository_control=True))


def test_control_is_an_extension(control: TritonClient) -> None:
    """Where it is allowed, it is named among the extensions."""
    assert "model_repository" in control.call("get_server_metadata")["extensions"]


def test_load(control: TritonClient, repository: Path) -> None:
    """Loading serves a new version beside the old one, and a new model."""
    write_model(repository / "linear" / "2")
    write_model(repository / "other" / "1")
    assert [control.call("load_model", model_name=name) for name in ("linear", "other")] == [None, None]
    assert index(control) == [("linear", "2", "READY"), ("linear", "1", "READY"), ("other", "1", "READY")]
    assert control.do("infer", pixels=pixels())["version"] == "2"
    assert control.do("infer", pixels=pixels(), version="1")["version"] == "1"


def test_unload_and_load(control: TritonClient) -> None:
    """An unloaded model is not ready and unknown; loaded again it answers."""
    assert control.call("unload_model", model_name="linear") is None
    assert control.call("is_model_ready", model_name="linear") is False
    assert control.do("infer", pixels=pixels())["status"] == "StatusCode.NOT_FOUND"
    assert index(control) == []
    assert control.call("load_model", model_name="linear") is None
    np.testing.assert_allclose(rows(control.do("infer", pixels=pixels())), EXPECTED[:1], atol=1e-6)


def test_load_that_fails(control: TritonClient, repository: Path) -> None:
    """A version that fails is UNAVAILABLE with the reason; the old one is served on, and the server stays ready."""
    write_model(repository / "linear" / "2", wrong_by=0.1)
    answer = control.call("load_model", model_name="linear")
    assert answer["status"] == "StatusCode.UNAVAILABLE"
    assert "failed to load version 2 of 'linear'" in answer["error"]
    assert "golden sample" in answer["error"]
    assert control.do("infer", pixels=pixels())["version"] == "1"
    assert control.call("is_server_ready") is True


@pytest.mark.parametrize("name", ["nobody", "empty"])
def test_load_what_is_not_there(control: TritonClient, repository: Path, name: str) -> None:
    """Loading a model that the repository does not hold is NOT_FOUND."""
    (repository / "empty").mkdir()
    answer = control.call("load_model", model_name=name)
    assert answer["status"] == "StatusCode.NOT_FOUND"
    assert f"failed to load '{name}'" in answer["error"]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonClient]:
    """Return a client that may load and unload, for what must change nothing."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "linear" / "1")
    write_model(root / "other" / "1")
    with served(root, allow_repository_control=True) as client:
        client.call("unload_model", model_name="other")
        yield client


@pytest.mark.parametrize("method", ["load_model", "unload_model"])
@pytest.mark.parametrize("name", ["../linear", "/linear", "linear/1", "", ".", "liveness", "a" * 200])
def test_names_are_checked(steady: TritonClient, method: str, name: str) -> None:
    """What is no name of a model is INVALID_ARGUMENT; no path is ever followed."""
    answer = steady.call(method, model_name=name)
    assert answer["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "model_name" in answer["error"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"config": {"string_param": "{}"}},
        {"config": {"string_param": "{}"}, "file:1/model.onnx": {"bytes_param": "AA=="}},
        {"other": {"bool_param": True}},
    ],
)
def test_no_content_is_taken(steady: TritonClient, parameters: dict[str, Any]) -> None:
    """Neither files nor a configuration are taken with a load: INVALID_ARGUMENT, and nothing is loaded."""
    message = {"model_name": "other", "parameters": parameters}
    answer = steady.do("raw", method="RepositoryModelLoad", message=message)
    assert answer["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "no file, path or configuration" in answer["error"]
    assert [name for name, _, _ in index(steady)] == ["linear"]


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload", "RepositoryIndex"])
def test_repository_name(steady: TritonClient, method: str) -> None:
    """A name of a repository, where other dialects put the model's, is INVALID_ARGUMENT and says where that goes."""
    answer = steady.do("raw", method=method, message={"repository_name": "linear"})
    assert answer["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "the model's name is field 2" in answer["error"]


def test_unload_answers_what_was_admitted(
    start_server: StartServer, triton: Connect, repository: Path, held: HeldSession
) -> None:
    """Unloading waits for the calls that were admitted, and they are answered."""
    server: Server = start_server(repository, load=held.load(), allow_repository_control=True)
    calling, unloading = triton(server), triton(server)
    calling.do("begin", pixels=pixels())
    assert held.began.acquire(timeout=WAIT)
    answers: list[Any] = []
    unload = threading.Thread(target=lambda: answers.append(unloading.call("unload_model", model_name="linear")))
    unload.start()
    while server.repository.readiness() == {"linear": True}:
        assert unload.is_alive()
    assert index(calling) == [("linear", "1", "UNLOADING")]
    held.gate.set()
    rows(calling.do("result"))
    unload.join(WAIT)
    assert answers == [None]
    assert server.repository.versions() == []
