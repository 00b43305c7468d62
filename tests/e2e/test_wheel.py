"""The module `saccade` of the installed wheel, inside applications of other people."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import google.protobuf
import grpc
import grpc_health
import numpy as np
import PIL
import pydantic
import pydantic_core
import pytest
import typing_extensions
import typing_inspection

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
modules = sorted(sys.modules)
with Client(sys.argv[1]) as client:
    answers.append(client.classify(client.model().fitted(np.zeros((99, 99), np.uint8))))
print(json.dumps({"models": [answer.model for answer in answers], "field": field, "modules": modules}))
"""
NEEDED = (annotated_types, grpc, grpc_health, np, PIL, pydantic, pydantic_core, typing_extensions, typing_inspection)
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
TYPED = """
import asyncio
from pathlib import Path

from saccade import Answer, AsyncClient, Client, Connection, InvalidInput, Overloaded
from service import OWN

with Client(connection=Connection(("localhost:8001",), tls_ca=Path("ca.pem")), connections=2, timeout=5) as client:
    answer = client.classify("cat.jpg", [Path("dog.jpg"), b"..."], model="resnet50", version=2, top_k=3)
    reveal_type(answer)
    reveal_type(answer.classifications[0][0].label + OWN)
    entry = client.model("resnet50")
    stream = client.stream((entry.fitted(path) for path in Path("photos").glob("*.jpg")), ordered=False)
    answers: list[Answer] = [item.result() for item in stream if item.error is None]
    try:
        client.classify(entry.shrunk("cat.jpg"))
    except Overloaded as error:
        print(error.retry_after)
    except InvalidInput as error:
        print(error.field, error.reason)
    client.classify(3)


async def main() -> None:
    async with AsyncClient("a:8001", "b:8001") as client:
        reveal_type(await client.classify("cat.jpg"))
        async for item in client.stream(["cat.jpg"]):
            print(item.index, item.result().model)


asyncio.run(main())
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
    for module in NEEDED:
        path = Path(module.__file__ or "")
        path = path.parent if path.stem == "__init__" else path
        for found in (path, path.with_name(f"{path.stem.lower()}.libs"), path.with_name("pillow.libs")):
            if found.exists() and not (folder / found.name).exists():
                (folder / found.name).symlink_to(found)
    (folder / "google").symlink_to(Path(google.protobuf.__file__).parents[1])
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
    assert said["models"] == ["lenet5-mnist"] * 4
    assert said["field"] == "images[0]"
    loaded = {name.split(".")[0] for name in said["modules"]}
    assert not loaded & {"onnxruntime", "PIL", "pydantic", "typer", "rich", "prometheus_client", "export"}
    assert not [name for name in said["modules"] if name.startswith("service.")]


def test_beside_our_own_package_service(tmp_path: Path, wheel: Path, needed: Path, address: str) -> None:
    """One process may use `saccade` and `service.client`: the generated messages are the same ones."""
    run(BOTH, tmp_path, address, wheel, needed)


def test_its_types(tmp_path: Path, wheel: Path) -> None:
    """A program that uses `saccade` beside a package `service` of its own is checked by mypy --strict.

    Its environment has `saccade` alone of the wheel, as a type checker finds it: none of the rest of it is needed.
    """
    (tmp_path / "service").mkdir()
    (tmp_path / "service/__init__.py").write_text("OWN = 'the application'\n")
    (tmp_path / "application.py").write_text(TYPED)
    venv.create(tmp_path / "venv", with_pip=False)
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "saccade").symlink_to(wheel / "saccade")
    (site / "others.pth").write_text(str(Path(np.__file__).parents[1]))
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "--python-executable", "venv/bin/python"]
    done = subprocess.run([*mypy, "application.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    revealed = [line.partition("note: ")[2] for line in done.stdout.splitlines() if "note: Revealed" in line]
    assert revealed == [
        'Revealed type is "saccade.client.answers.Answer"',
        'Revealed type is "str"',
        'Revealed type is "saccade.client.answers.Answer"',
    ]
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stdout
    assert 'Argument 1 to "classify" of "Client" has incompatible type "int"' in errors[0]
