"""Callers that do what no client library does, byte by byte: others are answered meanwhile."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from service import image
from service.rpc.pb.inference import service_pb2 as inference
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests import http2
from tests.fakes import WAIT
from tests.onnx_models import pictures, write_model
from tests.processes import ServerProcess

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
INFER = "/inference.GRPCInferenceService/ModelInfer"
CHECK = "/grpc.health.v1.Health/Check"
METHODS = [
    CLASSIFY,
    "/saccade.v1.ImageClassifier/ClassifyStream",
    "/saccade.v1.ImageClassifier/ListModels",
    INFER,
    "/inference.GRPCInferenceService/ModelStatistics",
    CHECK,
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
GOOD = pb.ClassifyRequest(images=[pb.Image(encoded=image.encode_png(pictures(1)[0]))]).SerializeToString()

FILES = inference.ModelInferRequest(model_name="linear", raw_input_contents=[bytes(4_000_000)])
FILES.inputs.add(name="image", datatype="BYTES", shape=[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server that runs by itself, with one small model."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "linear" / "1")
    with ServerProcess(root, "--max-message-mb", "8") as started:
        yield started


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """Return a bare channel of a well-behaved caller."""
    with grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as opened:
        yield opened


def ask(channel: grpc.Channel) -> None:
    """Ask for health, a list and a picture, as a well-behaved caller; raises if one is not answered."""
    for method, message in ((CHECK, b""), ("/saccade.v1.ImageClassifier/ListModels", b""), (CLASSIFY, GOOD)):
        call: Any = channel.unary_unary(method)
        call(message, timeout=WAIT)


@pytest.mark.parametrize("method", METHODS)
def test_messages_that_never_come(server: ServerProcess, channel: grpc.Channel, method: str) -> None:
    """Two hundred calls of a method whose message never comes keep nobody else from an answer."""
    with http2.Connection(server.grpc_port) as hostile:
        for number in range(200):
            hostile.call(2 * number + 1, method.encode())
        hostile.ping()
        ask(channel)
    ask(channel)


def test_calls_that_are_reset(server: ServerProcess, channel: grpc.Channel) -> None:
    """Five thousand calls that are begun and reset at once fail nobody else's."""
    ask(channel)
    with http2.Connection(server.grpc_port) as hostile:
        for number in range(5000):
            hostile.call(2 * number + 1, CLASSIFY.encode())
            hostile.send(http2.RESET, bytes(3) + b"\x08", stream=2 * number + 1)
        ask(channel)
    ask(channel)


def test_half_a_message(server: ServerProcess, channel: grpc.Channel) -> None:
    """Messages that stop half-way, and headers that do, keep nobody else from an answer."""
    with http2.Connection(server.grpc_port) as hostile:
        for number in range(50):
            hostile.call(2 * number + 1, CLASSIFY.encode())
            hostile.send(http2.DATA, http2.framed(GOOD)[:-1], stream=2 * number + 1)
        hostile.send(http2.HEADERS, http2.packed(http2.asking(CLASSIFY.encode())), stream=101)  # and no end of them
        ask(channel)
    ask(channel)


def test_no_message(server: ServerProcess, channel: grpc.Channel) -> None:
    """A Check that ends without a message is answered by its end, and others as before."""
    with http2.Connection(server.grpc_port) as hostile:
        hostile.call(1, CHECK.encode())
        hostile.send(http2.DATA, flags=http2.END_STREAM, stream=1)
        assert b"is missing" in hostile.ended(1).payload
        hostile.call(3, CHECK.encode(), message=b"\xff")
        assert b"no message of this method" in hostile.ended(3).payload
    ask(channel)


def test_many_connections(server: ServerProcess, channel: grpc.Channel) -> None:
    """Three hundred connections on which nothing happens keep nobody else from an answer."""
    hostile = [http2.Connection(server.grpc_port) for _ in range(300)]
    ask(channel)
    for connection in hostile:
        connection.close()
    ask(channel)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages(server: ServerProcess, algorithm: grpc.Compression) -> None:
    """A compressed message is taken, and one that unpacks to more than --max-message-mb is refused by its size."""
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(server.address, options, algorithm) as opened:
        call: Any = opened.unary_unary(CLASSIFY)
        call(GOOD, timeout=WAIT)
        bomb = pb.ClassifyRequest(images=[pb.Image(encoded=bytes(9 << 20))]).SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            call(bomb, timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        call(GOOD, timeout=WAIT)


MANY = {
    "more pictures than may wait": (CLASSIFY, b"\x1a\x03\x0a\x01x" * 60_000, "60,000 pictures in one request"),
    "empty pictures": (CLASSIFY, b"\x1a\x00" * 4_000_000, "more than 70,000 fields"),
    "parameters": (INFER, b"\x22\x05\x0a\x03a\x00b" * 1_000_000, "more than 70,000 fields"),
    "empty elements": (INFER, FILES.SerializeToString(), "expected 1 elements, got more"),
}


@pytest.mark.parametrize("what", MANY)
def test_many_small_parts(channel: grpc.Channel, what: str) -> None:
    """A message of very many very small parts is refused before anybody looks at each of them."""
    method, raw, text = MANY[what]
    call: Any = channel.unary_unary(method)
    with pytest.raises(grpc.RpcError, match=text) as caught:
        call(raw, timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    ask(channel)


def test_timeouts_without_an_end(server: ServerProcess, channel: grpc.Channel) -> None:
    """A deadline of 292,000 years is none, and messages after it keep theirs."""
    stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    endless = inference.ModelInferRequest(model_name="linear", raw_input_contents=[pictures(1).tobytes()])
    endless.inputs.add(name="image", datatype="UINT8", shape=[1, *pictures(1).shape[1:]])
    endless.parameters["timeout"].int64_param = 2**63 - 1
    for _ in range(2):
        [raw] = stream(iter([endless.SerializeToString()]), timeout=WAIT)
        assert not inference.ModelStreamInferResponse.FromString(raw).error_message
    ask(channel)
    assert not [line for line in server.lines if line["event"] == "raw"]


def test_watches_of_names_that_there_are_not(server: ServerProcess, channel: grpc.Channel) -> None:
    """Whoever watches what is not there hears so, and who comes later is answered."""
    with http2.Connection(server.grpc_port) as hostile:
        for number in range(500):
            asked = health_pb2.HealthCheckRequest(service=f"{number}" * 1000).SerializeToString()
            hostile.call(2 * number + 1, b"/grpc.health.v1.Health/Watch", message=asked)
        ask(channel)
    ask(channel)


def test_nothing_was_logged_but_by_the_server(server: ServerProcess) -> None:
    """After all of that the log holds no line of a library and no stack."""
    assert not [line for line in server.lines if line["event"] == "raw" or "stack" in line]
