"""The server as a process: what it loads, what it weighs, how it ends; and the commands as their users type them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from service import image
from service.client import Client
from service.server import BUNDLED
from tests.fakes import WAIT
from tests.onnx_models import LABELS, pictures, write_model
from tests.processes import ServerProcess, mapped_files, run


def test_serving_loads_no_torch(repository: Path) -> None:
    """A server that has answered has neither torch nor onnx in its memory, and weighs under 200 MB."""
    with ServerProcess(repository) as server, Client(server.address) as client:
        client.classify(*pictures(4))
        files = mapped_files(server.process.pid)
        assert not [line for line in files if "/torch/" in line or "/onnx/" in line]
        assert psutil.Process(server.process.pid).memory_info().rss < 200e6


def test_server_modules() -> None:
    """Importing the whole server imports neither torch nor onnx nor anything else of the training stage."""
    code = "import service.server, service.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "onnxruntime" not in loaded, "it is imported when the first session is made"
    assert not loaded & {"torch", "onnx", "onnxscript", "sklearn", "matplotlib", "export"}


def test_sigterm_ends_with_zero(repository: Path) -> None:
    """SIGTERM drains and ends the process with exit code 0."""
    with ServerProcess(repository) as server:
        server.terminate()
        assert server.process.wait(WAIT) == 0
        assert server.wait_for("stopped")


def test_second_sigterm_ends_at_once(repository: Path) -> None:
    """A second SIGTERM ends a process that is still draining."""
    with ServerProcess(repository, "--drain-delay", "3600") as server:
        server.terminate()
        server.wait_for("draining")
        server.terminate()
        assert server.process.wait(WAIT) == -signal.SIGTERM


def test_drain_delay_goes_on_serving(repository: Path) -> None:
    """Within --drain-delay the server says NOT_SERVING and still answers calls."""
    with ServerProcess(repository, "--drain-delay", "3600") as server, Client(server.address) as client:
        assert client.ready(timeout=WAIT)
        server.terminate()
        server.wait_for("draining")
        deadline = time.monotonic() + WAIT
        while client.ready():
            assert time.monotonic() < deadline
        assert client.classify(pictures(1)[0]).model == "linear"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return a picture file."""
    path = tmp_path / "picture.png"
    path.write_bytes(image.encode_png(pictures(1)[0]))
    return path


def test_behind_a_proxy(repository: Path) -> None:
    """A server on this machine is probed and asked directly, whatever proxy the environment names."""
    proxy = {"http_proxy": "http://127.0.0.1:9", "grpc_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    with ServerProcess(repository) as server:
        for command in ("probe", "models"):
            done = run(command, "--address", server.address, environment=proxy)
            assert done.returncode == 0, done.stderr


def test_classify_command(repository: Path, picture: Path) -> None:
    """`saccade classify` prints a table, and with --json what a program can read."""
    with ServerProcess(repository) as server:
        table = run("classify", str(picture), "--address", server.address)
        assert table.returncode == 0
        assert "linear version 1" in table.stdout
        asked = run("classify", str(picture), str(picture), "--address", server.address, "--json", "--top-k", "2")
    rows = json.loads(asked.stdout)
    assert [(row["picture"], row["model"]) for row in rows] == [(str(picture), "linear")] * 2
    assert [len(row["categories"]) for row in rows] == [2, 2]
    assert {entry["label"] for row in rows for entry in row["categories"]} <= set(LABELS)


def test_models_command(repository: Path) -> None:
    """`saccade models` shows the same facts as ListModels, failed versions with their reason."""
    write_model(repository / "linear" / "2", wrong_by=0.1)
    with ServerProcess(repository) as server:
        asked = run("models", "--address", server.address, "--json")
        assert "READY" in run("models", "--address", server.address).stdout
    second, first = json.loads(asked.stdout)
    assert (second["state"], first["state"]) == ("FAILED", "READY")
    assert "golden sample" in second["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--version"], 0, "saccade "),
        (["serve", "--help"], 0, "SACCADE_MAX_BATCH_SIZE"),
        (["serve", "--repository", "nowhere"], 1, "saccade export"),
        (["serve", "--grpc-port", "70000"], 2, "--grpc-port"),
        (["serve", "--grpc-port", "many"], 2, "many"),
        (["nonsense"], 2, "nonsense"),
        (["classify", "nowhere.png"], 2, "nowhere.png"),
        (["models", "--address", "127.0.0.1:1", "--timeout", "0.3"], 1, "127.0.0.1:1"),
        (["classify", "--address", "127.0.0.1:1", "--timeout", "0.3"], 1, "--local needs none"),
        (["bench", "oip://127.0.0.1:1"], 1, "is `saccade serve` running there? --address names another server"),
        (["train", "nothing"], 1, "lenet5-digits"),
        (["export", "."], 1, "saccade train"),
        (["export", "--help"], 0, "saccade export resnet50 --weights resnet50.pth"),
        (["export", "nowhere"], 2, "no training run nowhere (runs here: none), and no architecture 'nowhere'"),
    ],
)
def test_exit_codes(tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    """A command ends with 0, 1 (it failed) or 2 (used wrongly), and its text says what is the matter."""
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1


def test_explain_without_onnx(tmp_path: Path) -> None:
    """Without the package onnx `saccade explain` says to install that one, or what works without it."""
    hide = "import sys; sys.modules.update(onnx=None); sys.argv = ['saccade', 'explain', 'lenet5-mnist', sys.argv[1]];"
    code = f"{hide} from service.cli import main; main()"
    command = [sys.executable, "-c", code, str(BUNDLED.parent / "pictures/digit-7.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "`saccade export --explain` writes it, or `pip install onnx`" in done.stderr


def test_missing_extra(tmp_path: Path) -> None:
    """Without the packages of the training stage its commands say which pip command mends it."""
    hide = "import sys; sys.modules.update(torch=None, onnx=None); sys.argv = ['saccade', 'train', 'lenet5-digits'];"
    code = f"{hide} from service.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "run `pip install '.[cpu,train]'` in a clone of Saccade" in done.stderr
