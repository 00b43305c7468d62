"""Triton's own client against `saccade serve`, each as a process of its own."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from service.classify import EXAMPLES
from service.server import BUNDLED_DEFAULT
from tests.onnx_models import write_model
from tests.processes import ServerProcess
from tests.triton import TritonClient, as_base64, pixels, rows


@contextmanager
def client_of(repository: Path | None, *flags: str) -> Iterator[TritonClient]:
    """Give a client of a server."""
    with ServerProcess(repository, *flags) as server, closing(TritonClient(server.address)) as client:
        yield client


def test_bundled_pictures() -> None:
    """The example digits, sent as the files that they are, are recognised by the bundled model."""
    files = sorted(EXAMPLES.iterdir())
    with client_of(None) as client:
        answer = client.do(
            "infer", model=BUNDLED_DEFAULT, files=as_base64(path.read_bytes() for path in files), classes=1
        )
    assert [text.split(":")[2] for text in rows(answer)] == [path.stem.removeprefix("digit-") for path in files]


def test_a_version_published_while_serving(repository: Path) -> None:
    """With --allow-repository-control a version that is published while the server runs is served once it is loaded."""
    with client_of(repository, "--allow-repository-control") as client:
        write_model(repository / "linear" / "2")
        assert client.do("infer", pixels=pixels())["version"] == "1"
        assert client.call("load_model", model_name="linear") is None
        assert client.do("infer", pixels=pixels())["version"] == "2"
