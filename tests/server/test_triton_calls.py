"""Triton's own client against the server: what is under way, given up, streamed and counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import StartServer
from tests.fakes import WAIT, HeldSession, until_waiting
from tests.onnx_models import pictures, probabilities, weights, write_model
from tests.triton import Connect, TritonClient, pixels, rows

EXPECTED = probabilities(pictures(6), weights())
SHOWN = pictures(6)
CANCELLED = "StatusCode.CANCELLED"


def picture(number: int) -> Any:  # noqa: ANN401 - nested lists
    """Return one of the six test pictures as a batch of one."""
    return SHOWN[number % 6][np.newaxis].tolist()


def test_async(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """Asynchronous calls are answered by their callbacks."""
    client = triton(start_server(repository))
    for number in range(20):
        client.do("begin", pixels=picture(number), request_id=str(number))
    answers = {int(answer["id"]): answer for answer in (client.do("result") for _ in range(20))}
    for number in range(20):
        np.testing.assert_allclose(rows(answers[number])[0], EXPECTED[number % 6], atol=1e-6)


def test_cancelled(start_server: StartServer, triton: Connect, repository: Path, held: HeldSession) -> None:
    """A call that is cancelled while it waits leaves the queue at once and is never computed."""
    server = start_server(repository, load=held.load())
    client = triton(server)
    client.do("begin", pixels=pixels())
    assert held.began.acquire(timeout=WAIT)
    client.do("begin", pixels=pixels())
    until_waiting(server, 1)
    client.do("cancel")
    assert client.do("result")["status"] == CANCELLED
    until_waiting(server, 0)
    held.gate.set()
    rows(client.do("result"))
    assert held.pictures == 1


@pytest.mark.parametrize("limit", [{"client_timeout": 0.3}, {"timeout": 300_000}], ids=["call", "request"])
def test_deadlines(
    start_server: StartServer, triton: Connect, repository: Path, held: HeldSession, limit: dict[str, Any]
) -> None:
    """The call's deadline, in seconds, and the request's own, in microseconds, end it: it is never computed."""
    server = start_server(repository, load=held.load())
    client = triton(server)
    client.do("begin", pixels=pixels())
    assert held.began.acquire(timeout=WAIT)
    assert client.do("infer", pixels=pixels(), **limit)["status"] == "StatusCode.DEADLINE_EXCEEDED"
    until_waiting(server, 0)
    held.gate.set()
    rows(client.do("result"))
    assert held.pictures == 1


def test_deadline_out_of_reach(start_server: StartServer, triton: Connect, repository: Path, held: HeldSession) -> None:
    """A deadline that cannot be met is refused before anything is computed."""
    client = triton(start_server(repository, load=held.load(seconds=5.0)))
    answer = client.do("infer", pixels=pixels(), client_timeout=2.0)
    assert (answer["status"], held.pictures) == ("StatusCode.RESOURCE_EXHAUSTED", 0)
    assert "the deadline leaves" in answer["error"]


def test_stream(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """On a stream every request is answered once, by its id, marked as the last answer to it."""
    client = triton(start_server(repository))
    client.do("start_stream")
    for number in range(30):
        client.do("send", pixels=picture(number), request_id=str(number), enable_empty_final_response=number % 2 == 0)
    answers = [client.do("result") for _ in range(30)]
    assert sorted(int(answer["id"]) for answer in answers) == list(range(30))
    assert {answer["final"] for answer in answers} == {True}
    for answer in answers:
        np.testing.assert_allclose(rows(answer)[0], EXPECTED[int(answer["id"]) % 6], atol=1e-6)
    client.do("stop_stream")


def test_a_failure_leaves_the_stream_open(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """A failure on a stream is its request's own; the stream goes on."""
    client = triton(start_server(repository))
    client.do("start_stream")
    client.do("send", pixels=pixels()[0])
    assert client.do("result")["error"].startswith("INVALID_ARGUMENT: inputs[0].shape: expected [-1, 8, 8, 1]")
    client.do("send", model="nobody", pixels=pixels())
    assert client.do("result")["error"].startswith("NOT_FOUND: no model 'nobody' here")
    client.do("send", pixels=pixels(), classes=1)
    assert rows(client.do("result"))[0].count(":") == 2


def test_stopped_stream(start_server: StartServer, triton: Connect, repository: Path, held: HeldSession) -> None:
    """When a stream is stopped with its requests cancelled, what it had waiting is never computed."""
    server = start_server(repository, load=held.load(queue_size=20))
    client = triton(server)
    client.do("start_stream")
    for _ in range(5):
        client.do("send", pixels=pixels())
    assert held.began.acquire(timeout=WAIT)
    until_waiting(server, 4)
    client.do("stop_stream", cancel_requests=True)
    assert client.do("result")["status"] == CANCELLED
    until_waiting(server, 0)
    held.gate.set()
    assert held.pictures == 1


def test_timeout_on_a_stream(start_server: StartServer, triton: Connect, repository: Path, held: HeldSession) -> None:
    """A request on a stream may have a deadline of its own."""
    client = triton(start_server(repository, load=held.load()))
    client.do("start_stream")
    client.do("send", pixels=pixels(), request_id="first")
    assert held.began.acquire(timeout=WAIT)
    client.do("send", pixels=pixels(), timeout=50_000)
    assert client.do("result")["error"].startswith("DEADLINE_EXCEEDED")
    held.gate.set()
    assert client.do("result")["id"] == "first"


def test_asynchronous_stream(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """The asynchronous client's stream gives each answer or error in its place."""
    sent = [
        {"pixels": picture(0), "request_id": "a"},
        {"pixels": picture(1), "name": "wrong"},
        {"pixels": picture(2), "request_id": "c"},
    ]
    answers = triton(start_server(repository)).do("aio_stream", requests=sent)
    by_id = {answer.get("id", "b"): answer for answer in answers}
    np.testing.assert_allclose([rows(by_id["a"])[0], rows(by_id["c"])[0]], EXPECTED[[0, 2]], atol=1e-6)
    assert "expected 'image', got 'wrong'" in by_id["b"]["error"]


def statistics(client: TritonClient, **given: str) -> list[dict[str, Any]]:
    """Return the statistics that a client reads."""
    found: list[dict[str, Any]] = client.call("get_inference_statistics", **given)["model_stats"]
    return found


def test_statistics(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """What was run is counted by version: pictures, batches by size, requests, and the queue once a request."""
    write_model(repository / "linear" / "2")
    client = triton(start_server(repository))
    rows(client.do("infer", pixels=pixels(3)))
    rows(client.do("infer", pixels=pixels(1), classes=1))
    assert client.do("infer", pixels=pixels()[0])["status"] == "StatusCode.INVALID_ARGUMENT"
    first, second = statistics(client)
    assert (first["name"], first["version"], second["version"]) == ("linear", "1", "2")
    assert (first["inference_count"], first["last_inference"]) == ("0", "0")
    assert (second["inference_count"], second["execution_count"]) == ("4", "2")
    counted = second["inference_stats"]
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    assert [counted[name]["count"] for name in names] == ["2", "1", "2", "2", "2", "2"]
    assert all(int(counted[name]["ns"]) > 0 for name in ("success", "fail", "queue", "compute_infer"))
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in second["batch_stats"]] == [
        ("1", "1"),
        ("3", "1"),
    ]
    assert int(second["last_inference"]) > 1.7e12


def test_statistics_of_one(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """Statistics may be asked of one model or version; of an unknown one they are NOT_FOUND."""
    write_model(repository / "linear" / "2")
    write_model(repository / "other" / "1")
    client = triton(start_server(repository))
    assert [each["version"] for each in statistics(client, model_name="linear")] == ["1", "2"]
    assert [each["version"] for each in statistics(client, model_name="linear", model_version="2")] == ["2"]
    unknown = client.call("get_inference_statistics", model_name="nobody")
    assert unknown["status"] == "StatusCode.NOT_FOUND"
