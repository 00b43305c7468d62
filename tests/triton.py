"""Triton's own Python client as a process beside the test; see tests.triton_child."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.config import load_settings
from service.server import Server
from tests.onnx_models import pictures
from tests.processes import ROOT

Connect = Callable[[Server], "TritonClient"]


class TritonClient:
    """One client in a process of its own.

    Args:
        address: of the server.
        options: of the client, beside the address.
    """

    def __init__(self, address: str, **options: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.triton_child", address, json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def do(self, command: str, **given: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Give a command and return its answer; of a failure `error` and `status`."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": command, **given}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client's process ended; its traceback is above"
        return json.loads(line)

    def call(self, method: str, **given: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Call a method of the client by its name."""
        return self.do("call", method=method, **given)


@contextmanager
def served(root: Path, **settings: object) -> Iterator[TritonClient]:
    """Give a client of a server of its own."""
    server = Server(load_settings(repository=root, host="127.0.0.1", grpc_port=0, metrics_port=0, **settings))
    server.start()
    client = TritonClient(f"127.0.0.1:{server.grpc_port}")
    try:
        yield client
    finally:
        client.close()
        server.drain(delay=0, refuse=0)


def pixels(count: int = 1) -> Any:  # noqa: ANN401 - nested lists
    """Return so many of the six test pictures, again from the first, as a command takes them."""
    return pictures(6)[np.arange(count) % 6].tolist()


def as_base64(files: Iterable[bytes]) -> list[str]:
    """Return picture files as a command takes them."""
    return [base64.b64encode(file).decode() for file in files]


def rows(answer: dict[str, Any]) -> Any:  # noqa: ANN401 - nested lists
    """Return the output of an answer, [N, classes] of numbers or N * k texts."""
    assert "error" not in answer, answer
    return answer["outputs"]["probabilities"]
