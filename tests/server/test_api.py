"""What a caller gets when all is well, over a real socket, through the shipped client."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service import image
from service.errors import InvalidInput, Unavailable, UnknownModel
from service.server import Server
from tests.conftest import Connect, StartServer
from tests.onnx_models import LABELS, pictures, probabilities, weights, write_model

EXPECTED = probabilities(pictures(6), weights())


def test_answers_are_the_models(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """Raw pixels and PNG files give the probabilities of the bare arithmetic, in falling order, whatever the load."""
    client = connect(start_server(repository))
    batch = pictures(6)

    def ask(number: int) -> np.ndarray:
        picture = batch[number % 6] if number % 2 else image.encode_png(batch[number % 6])
        best = client.classify(picture, top_k=9).classifications[0]
        assert [entry.probability for entry in best] == sorted((entry.probability for entry in best), reverse=True)
        assert [LABELS[entry.index] for entry in best] == [entry.label for entry in best]
        return np.array([entry.probability for entry in sorted(best, key=lambda entry: entry.index)])

    with ThreadPoolExecutor(8) as callers:
        for number, row in enumerate(callers.map(ask, range(240))):
            np.testing.assert_allclose(row, EXPECTED[number % 6], atol=1e-6)


def test_many_pictures_in_one_call(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A call with more pictures than the largest batch is answered whole, in order."""
    client = connect(start_server(repository, max_batch_size=4))
    answer = client.classify(*pictures(11), top_k=1)
    best = probabilities(pictures(11), weights()).argmax(axis=1)
    assert [row[0].index for row in answer.classifications] == best.tolist()
    assert answer.batch_size <= 4


def test_top_k(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """top_k 1 gives one category; 0 means 5, and here there are only 4."""
    client = connect(start_server(repository))
    assert len(client.classify(pictures(1)[0], top_k=1).classifications[0]) == 1
    assert len(client.classify(pictures(1)[0]).classifications[0]) == 4


def test_versions(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """The highest version that passes is served unless the call names another."""
    write_model(repository / "linear" / "2")
    write_model(repository / "linear" / "10", wrong_by=0.1)
    client = connect(start_server(repository))
    assert client.classify(pictures(1)[0]).version == "2"
    assert client.classify(pictures(1)[0], version="1").version == "1"


def test_list_models(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """ListModels shows every version: the facts of those served, the reason of those that failed."""
    write_model(repository / "linear" / "2", wrong_by=0.1)
    write_model(repository / "linear" / "3", samples=0)
    third, second, first = connect(start_server(repository)).models()
    assert [entry.version for entry in (third, second, first)] == ["3", "2", "1"]
    assert (third.state, third.verified, third.default) == ("READY", False, True)
    assert "no golden samples" in third.reason
    assert (second.state, second.default) == ("FAILED", False)
    assert "golden sample" in second.reason
    assert (first.state, first.verified, first.default) == ("READY", True, False)
    assert (first.labels, first.provider, first.precision, first.height) == (LABELS, "cpu", "fp32", 8)
    assert len(first.sha256) == 64


def test_client_errors(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """The client raises the service's own exceptions, with the field of the request that was wrong."""
    client = connect(start_server(repository))
    with pytest.raises(UnknownModel, match="there are: linear"):
        client.classify(pictures(1)[0], model="nobody")
    with pytest.raises(InvalidInput) as caught:
        client.classify(pictures(1)[0], b"garbage")
    assert caught.value.field == "images[1]"
    with pytest.raises(InvalidInput, match="float64"):
        client.classify(np.zeros((8, 8)))  # type: ignore[arg-type]


def test_client_without_server(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """Where no server answers until the deadline, the client says which one it asked."""
    server: Server = start_server(repository)
    server.drain(delay=0, refuse=0)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{server.grpc_port}"):
        connect(server, timeout=0.3).classify(pictures(1)[0])


def test_metrics_page(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """The metrics page counts what was asked: calls by status, pictures, stages, predictions."""
    server: Server = start_server(repository)
    client = connect(server)
    client.classify(*pictures(3))
    with pytest.raises(UnknownModel):
        client.classify(pictures(1)[0], model="nobody")
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    assert 'saccade_requests_total{code="OK",method="Classify",model="linear"} 1.0' in lines
    assert 'saccade_requests_total{code="NOT_FOUND",method="Classify",model=""} 1.0' in lines
    assert 'saccade_images_total{model="linear"} 3.0' in lines
    assert 'saccade_stage_seconds_count{model="linear",stage="inference"} 1.0' in lines
    assert 'saccade_model_ready{model="linear"} 1.0' in lines
    predicted = sum(float(line.split()[-1]) for line in lines if line.startswith("saccade_predictions_total"))
    assert predicted == 3
