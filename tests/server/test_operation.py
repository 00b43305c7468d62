"""What an operator sees: log lines, files that vanish, repositories that cannot be read."""

from pathlib import Path

import pytest

from service import image, logs
from service.client import Client
from service.errors import InvalidInput, SetupError, Unavailable
from service.loading import load_model
from service.looks import FILE
from service.metrics import Metrics
from service.model import Model, Options
from service.server import Server
from tests.conftest import Connect, Lines, StartServer
from tests.onnx_models import pictures, write_model

PICTURE = image.encode_png(pictures(1)[0])


def test_start_says_what_is_served(start_server: StartServer, repository: Path, lines: Lines) -> None:
    """Starting logs model, version, provider, precision, verified or not, and the ports."""
    write_model(repository / "linear" / "2", samples=0)
    server: Server = start_server(repository)
    second, first, ready = lines()
    said = ("event", "model", "version", "provider", "precision", "verified")
    assert [second[field] for field in said] == ["model ready", "linear", 2, "cpu", "fp32", False]
    assert [first[field] for field in said] == ["model ready", "linear", 1, "cpu", "fp32", True]
    assert (ready["event"], ready["grpc_port"], ready["metrics_port"]) == (
        "ready",
        server.grpc_port,
        server.metrics_port,
    )


def test_one_line_a_failed_call(start_server: StartServer, connect: Connect, repository: Path, lines: Lines) -> None:
    """A failed call is one line with its reason; an answered one is none."""
    client: Client = connect(start_server(repository))
    lines()
    client.classify(PICTURE)
    with pytest.raises(InvalidInput):
        client.classify(b"garbage")
    [line] = lines()
    assert (line["event"], line["method"], line["model"], line["code"]) == (
        "call failed",
        "Classify",
        "linear",
        "INVALID_ARGUMENT",
    )
    assert "images[0]" in str(line["reason"])


def test_access_log(start_server: StartServer, connect: Connect, repository: Path, lines: Lines) -> None:
    """With --access-log an answered call is one line too."""
    client: Client = connect(start_server(repository, access_log=True))
    lines()
    client.classify(PICTURE)
    [line] = lines()
    assert (line["event"], line["method"], line["model"]) == ("call", "Classify", "linear")
    assert float(str(line["ms"])) > 0


def test_refusals_share_a_line(lines: Lines) -> None:
    """What happens by the thousand is one line a second, which says how often it happened."""
    now = iter([0.0, 0.1, 0.2, 0.9, 1.1, 1.2, 5.0])
    for _ in range(7):
        logs.sometimes("a test refused", lambda: next(now), reason="full")
    assert [line["times"] for line in lines()] == [1, 4, 2]


def test_a_file_that_vanishes(repository: Path, connect: Connect, start_server: StartServer) -> None:
    """A version whose file vanishes after it was found has failed and says so; the one below it is served."""
    write_model(repository / "linear" / "2")
    options, metrics = Options(), Metrics()

    def load(path: Path, name: str, version: int) -> Model:
        if version == 2:
            path.unlink()
        return load_model(path, name, version, options, metrics)

    client: Client = connect(start_server(repository, load=load, metrics=metrics), timeout=0.3)
    second, first = client.models()
    assert (second.state, first.state) == ("FAILED", "READY")
    assert "cannot be read: No such file or directory" in second.reason
    assert client.classify(PICTURE).version == "1"
    with pytest.raises(Unavailable, match="version 2"):
        client.classify(PICTURE, version="2")


def test_a_file_that_vanishes_while_it_is_served(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A served version goes on answering when its file is gone."""
    client: Client = connect(start_server(repository))
    (repository / "linear/1" / FILE).unlink()
    assert client.classify(PICTURE).version == "1"


def test_an_empty_file(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A version whose file is empty has failed with the reason."""
    (repository / "linear/2").mkdir()
    (repository / "linear/2" / FILE).write_bytes(b"")
    second, _ = connect(start_server(repository)).models()
    assert second.state == "FAILED"
    assert "holds no graph" in second.reason


def test_require_verified(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """With --require-verified a version without golden samples has failed with the reason; the tested one is served."""
    write_model(repository / "linear/2", samples=0)
    second, first = connect(start_server(repository, require_verified=True)).models()
    assert (second.state, first.state) == ("FAILED", "READY")
    assert "--require-verified" in second.reason


def test_repository_that_is_no_folder(start_server: StartServer, tmp_path: Path) -> None:
    """A repository that is a file, or is not there, is an error that names the flag and the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"--repository .*file cannot be read"):
        start_server(tmp_path / "file")
    with pytest.raises(SetupError, match=r"--repository .*nowhere does not exist"):
        start_server(tmp_path / "nowhere")
