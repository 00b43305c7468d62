"""The module `saccade` of the installed wheel, inside applications of other people."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.protobuf
import grpc
import grpc_health
import numpy as np
import pytest
import typing_extensions

from tests.processes import ServerProcess

APPLICATION = """
import asyncio, json, sys
import numpy as np
from saccade import AsyncClient, Client, InvalidInput

picture = np.zeros((28, 28, 1), np.uint8)
with Client(sys.argv[1]) as client:
    answers = [client.classify(picture), *(item.result() for item in client.stream([picture]))]
    try:
        client.classify(b"no picture")
    except InvalidInput as error:
        field = error.field

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        return await client.classify(picture)

answers.append(asyncio.run(main()))
print(json.dumps({"models": [answer.model for answer in answers], "field": field, "modules": sorted(sys.modules)}))
"""
OWN = "import service; assert service.OWN == 'the application'\n"
BOTH = """
import sys
import numpy as np
from service.client import Client as Inner
from service.errors import InvalidInput
from saccade import Client

for kind in (Inner, Client):
    with kind(sys.argv[1]) as client:
        client.classify(np.zeros((28, 28, 1), np.uint8))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return where a server of the bundled model listens."""
    with ServerProcess(None) as server:
        yield server.address


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that the client needs of other people's packages, and nothing else."""
    folder = tmp_path_factory.mktemp("needed")
    numpy = Path(np.__file__).parent
    packages = [
        Path(grpc.__file__).parent,
        Path(google.protobuf.__file__).parents[1],
        Path(grpc_health.__file__).parent,
    ]
    for path in (*packages, numpy, numpy.with_name("numpy.libs"), Path(typing_extensions.__file__)):
        if path.exists():
            (folder / path.name).symlink_to(path)
    return folder


def run(code: str, folder: Path, address: str, *paths: Path) -> str:
    """Run a program of this folder with nothing to import but what is in it and in `paths`."""
    (folder / "application.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "application.py", address],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_beside_another_package_called_service(tmp_path: Path, wheel: Path, needed: Path, address: str) -> None:
    """An application with its own package `service` classifies through `saccade`; nothing of the server is loaded."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service/__init__.py").write_text("OWN = 'the application'\n")
    said: dict[str, Any] = json.loads(run(OWN + APPLICATION, tmp_path, address, wheel, needed))
    assert said["models"] == ["lenet5-mnist"] * 3
    assert said["field"] == "images[0]"
    loaded = {name.split(".")[0] for name in said["modules"]}
    assert not loaded & {"onnxruntime", "PIL", "pydantic", "typer", "rich", "prometheus_client", "export"}
    assert not [name for name in said["modules"] if name.startswith("service.")]


def test_beside_our_own_package_service(tmp_path: Path, wheel: Path, needed: Path, address: str) -> None:
    """One process may use `saccade` and `service.client`: the generated messages are the same ones."""
    run(BOTH, tmp_path, address, wheel, needed)
