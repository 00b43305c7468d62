"""inference.GRPCInferenceService over a real socket: the same statuses, limits, health and counts as Classify."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.rpc.inference import SERVICE
from service.rpc.pb.inference import extensions_pb2
from service.rpc.pb.inference import service_pb2 as pb
from service.server import Server
from tests.conftest import Channel, Connect, StartServer
from tests.fakes import WAIT, HeldSession, uniform, until_waiting
from tests.onnx_models import pictures, probabilities, weights, write_model

CODE = grpc.StatusCode
PICTURES = pictures(6)
EXPECTED = probabilities(PICTURES, weights())


def request(*numbers: int, model: str = "", version: str = "", classes: int = 0) -> pb.ModelInferRequest:
    """Return a request with these of the test pictures, the first if none is named."""
    batch = PICTURES[list(numbers or (0,))]
    asked = pb.ModelInferRequest(model_name=model, model_version=version, raw_input_contents=[batch.tobytes()])
    asked.inputs.add(name="image", datatype="UINT8", shape=batch.shape)
    if classes:
        asked.outputs.add(name="probabilities").parameters["classification"].int64_param = classes
    return asked


def method(channel: grpc.Channel, name: str, answer: Any) -> Any:  # noqa: ANN401 - grpc's own type is not generic
    """Return a unary method of the service that takes a message or bytes."""
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
        response_deserializer=answer.FromString,
    )


def infer(channel: grpc.Channel, asked: pb.ModelInferRequest | bytes, timeout: float = WAIT) -> pb.ModelInferResponse:
    """Call ModelInfer."""
    response: pb.ModelInferResponse = method(channel, "ModelInfer", pb.ModelInferResponse)(asked, timeout=timeout)
    return response


def rows(response: pb.ModelInferResponse) -> Any:  # noqa: ANN401 - an array
    """Return the probabilities of a response."""
    [output], [raw] = response.outputs, response.raw_output_contents
    return np.frombuffer(raw, "<f4").reshape(list(output.shape))


def failure(channel: grpc.Channel, asked: pb.ModelInferRequest | bytes, timeout: float = WAIT) -> grpc.RpcError:
    """Call ModelInfer, which must fail, and return the failure."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, asked, timeout)
    return caught.value


def details(error: grpc.RpcError, kind: Any) -> Any:  # noqa: ANN401 - a google.rpc message
    """Return the google.rpc details of a failure."""
    found = kind()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    assert status.details[0].Unpack(found)
    return found


@pytest.fixture
def background() -> Iterator[Callable[..., "Future[Any]"]]:
    """Return what makes calls beside the test's own."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


def test_rows_beside_labels(start_server: StartServer, channel: Channel, connect: Connect, repository: Path) -> None:
    """Whole rows and labels, asked for at once through both services, are each the bare arithmetic's."""
    server = start_server(repository)
    opened, client = channel(server), connect(server)

    def ask(number: int) -> None:
        picture = number % 6
        if number % 3 == 0:
            np.testing.assert_allclose(rows(infer(opened, request(picture)))[0], EXPECTED[picture], atol=1e-6)
        elif number % 3 == 1:
            best = client.classify(PICTURES[picture], top_k=2).classifications[0]
            order = np.argsort(-EXPECTED[picture])[:2]
            assert [entry.index for entry in best] == order.tolist()
        else:
            [raw] = infer(opened, request(picture, classes=1)).raw_output_contents
            assert int(raw[4:].split(b":")[1]) == EXPECTED[picture].argmax()

    with ThreadPoolExecutor(8) as callers:
        assert len(list(callers.map(ask, range(240)))) == 240


def test_equals_classify(start_server: StartServer, channel: Channel, connect: Connect, repository: Path) -> None:
    """ModelInfer gives the same probabilities as Classify, bit by bit, for a thousand classes too."""
    write_model(repository / "many" / "1", labels=[f"class {number}" for number in range(1000)])
    server = start_server(repository)
    classified = connect(server).classify(PICTURES[0], model="many", top_k=1000).classifications[0]
    row = rows(infer(channel(server), request(model="many")))[0]
    assert {entry.index: np.float32(entry.probability) for entry in classified} == dict(enumerate(row))


def test_garbage(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Bytes that are no message are INVALID_ARGUMENT with the field `request`."""
    error = failure(channel(start_server(repository)), b"\xff" * 20)
    assert error.code() is CODE.INVALID_ARGUMENT
    assert details(error, error_details_pb2.BadRequest).field_violations[0].field == "request"


def test_field(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A wrong tensor is INVALID_ARGUMENT with its field in google.rpc.BadRequest."""
    asked = request()
    asked.inputs[0].shape[3] = 3
    error = failure(channel(start_server(repository)), asked)
    assert error.code() is CODE.INVALID_ARGUMENT
    [violation] = details(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "inputs[0].shape"
    assert violation.description.startswith("expected [-1, 8, 8, 1]")


def test_too_many_pictures(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """More pictures than the queue could ever hold are INVALID_ARGUMENT with the limit."""
    error = failure(channel(start_server(repository, queue_size=4)), request(*range(6)))
    assert (error.code(), error.details()) == (
        CODE.INVALID_ARGUMENT,
        "inputs[0].shape: 6 pictures in one request; the limit is 4",
    )


def test_failed_version(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A version that failed its self-test is UNAVAILABLE with the reason."""
    write_model(repository / "linear" / "2", wrong_by=0.1)
    error = failure(channel(start_server(repository)), request(version="2"))
    assert error.code() is CODE.UNAVAILABLE
    assert "self-test" in (error.details() or "")


def test_values_that_are_not_finite(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A request that gets NaN is INTERNAL with an id, and the next one is answered."""
    broken = [np.nan, 1]
    session = HeldSession(lambda batch: uniform(batch) * np.float32(broken.pop(0)))
    session.gate.set()
    opened = channel(start_server(repository, load=session.load()))
    error = failure(opened, request(0))
    assert error.code() is CODE.INTERNAL
    assert (error.details() or "").startswith("internal error ")
    np.testing.assert_allclose(rows(infer(opened, request(1))), 0.25)


def test_full_queue(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    held: HeldSession,
    background: Callable[..., "Future[Any]"],
) -> None:
    """A full queue is RESOURCE_EXHAUSTED with RetryInfo and push-back; those in the queue are answered."""
    server = start_server(repository, load=held.load(queue_size=2, seconds=0.05))
    opened = channel(server)
    calls = [background(infer, opened, request())]
    assert held.began.acquire(timeout=WAIT)
    calls += [background(infer, opened, request()) for _ in range(2)]
    until_waiting(server, 2)
    error = failure(opened, request())
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert details(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    trailing: Any = error.trailing_metadata()
    assert int(dict(trailing)["grpc-retry-pushback-ms"]) > 0
    held.gate.set()
    assert [rows(call.result(WAIT)).shape for call in calls] == [(1, 4)] * 3


def test_control_beside_full_calls(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    held: HeldSession,
    background: Callable[..., "Future[Any]"],
) -> None:
    """While every place for calls is taken, one more is refused at once, and what only asks is answered."""
    server = start_server(repository, load=held.load(queue_size=3), queue_size=3, max_batch_size=1)
    opened = channel(server)
    calls = [background(infer, opened, request())]
    assert held.began.acquire(timeout=WAIT)
    calls += [background(infer, opened, request()) for _ in range(3)]
    until_waiting(server, 3)
    error = failure(opened, request())
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert "as many calls are under way" in (error.details() or "")
    for name, asked, answer in (
        ("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse),
        ("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse),
        ("ModelMetadata", pb.ModelMetadataRequest(name="linear"), pb.ModelMetadataResponse),
        ("ModelStatistics", extensions_pb2.ModelStatisticsRequest(), extensions_pb2.ModelStatisticsResponse),
    ):
        assert method(opened, name, answer)(asked, timeout=WAIT).ByteSize()
    held.gate.set()
    assert [rows(call.result(WAIT)).shape for call in calls] == [(1, 4)] * 4


def test_counted_as_other_calls(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Requests and their pictures are counted by method, label and stage, like those of Classify."""
    server = start_server(repository)
    opened = channel(server)
    infer(opened, request(0, 1))
    failure(opened, request(model="nobody"))
    sample = server.metrics.registry.get_sample_value
    assert sample("saccade_requests_total", {"model": "linear", "method": "ModelInfer", "code": "OK"}) == 1
    assert sample("saccade_requests_total", {"model": "", "method": "ModelInfer", "code": "NOT_FOUND"}) == 1
    assert sample("saccade_images_total", {"model": "linear"}) == 2
    assert sample("saccade_confidence_count", {"model": "linear"}) == 2
    assert sample("saccade_stage_seconds_count", {"model": "linear", "stage": "queue"}) == 1


def test_draining(
    start_server: StartServer,
    channel: Channel,
    repository: Path,
    held: HeldSession,
    background: Callable[..., "Future[Any]"],
) -> None:
    """From the moment it drains the server is not ready; then new requests are UNAVAILABLE and old ones answered."""
    server: Server = start_server(repository, load=held.load())
    opened = channel(server)
    accepted = background(infer, opened, request())
    assert held.began.acquire(timeout=WAIT)
    drain = threading.Thread(target=lambda: server.drain(delay=0.5, refuse=WAIT / 10))
    drain.start()
    ready = method(opened, "ServerReady", pb.ServerReadyResponse)
    while ready(pb.ServerReadyRequest(), timeout=WAIT).ready:
        assert drain.is_alive()
    codes = set()
    while CODE.UNAVAILABLE not in codes and drain.is_alive():
        codes.add(failure(opened, request(), timeout=0.1).code())
    assert CODE.UNAVAILABLE in codes
    held.gate.set()
    assert rows(accepted.result(WAIT)).shape == (1, 4)
    drain.join(WAIT)


def test_an_unloaded_model_is_freed(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Nothing holds on to a model, and with it to its session's memory, once it is unloaded."""
    server = start_server(repository, allow_repository_control=True)
    opened = channel(server)
    infer(opened, request())
    model = weakref.ref(server.repository.find("linear", ""))
    unload = method(opened, "RepositoryModelUnload", extensions_pb2.RepositoryModelUnloadResponse)
    unload(extensions_pb2.RepositoryModelUnloadRequest(model_name="linear"), timeout=WAIT)
    for _ in range(200):
        if model() is None:
            break
        gc.collect()
        threading.Event().wait(0.01)  # the call's thread lets go of its frame after the answer
    assert model() is None
