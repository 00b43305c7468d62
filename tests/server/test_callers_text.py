"""A caller's text in every field that has one: it is refused in few words, and is no line, colour or series of ours."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from prometheus_client import generate_latest

from service import image, logs
from service.looks import is_name
from service.rpc.pb.inference import extensions_pb2, model_config_pb2
from service.rpc.pb.inference import service_pb2 as oip
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.conftest import Channel, StartServer
from tests.fakes import WAIT
from tests.onnx_models import pictures

HOSTILE = {
    "another event": "x\n12:00:00 INFO    model ready  model=evil",
    "a carriage return": "x\r12:00:00 INFO    model ready  model=evil",
    "a terminal's commands": "\x1b[2J\x1b]0;evil\x07\x1b[31m\x9b2J",
    "another direction": "\u202eevil\u2066\u2028\u2029\u0085",
    "a way up": "../../../../etc/passwd",
    "an end of text": "evil\x00",
    "fields": 'evil" code=OK model="evil',
    "a megabyte": "evil" * 250_000,
}
LINE = re.compile(r"\d\d:\d\d:\d\d INFO    call failed  method=\w+ model=(\"\"|linear) code=[A-Z_]+ reason=.*")
FILE = image.encode_png(pictures(1)[0])
CODES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}

OWN, OIP = "/saccade.v1.ImageClassifier/", "/inference.GRPCInferenceService/"
Ask = Callable[[str], Message]


def infer(**given: object) -> oip.ModelInferRequest:
    """Return a request for inference that is right but for what is given."""
    request = oip.ModelInferRequest(model_name="linear", raw_input_contents=[pictures(1).tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8, 1])
    request.MergeFrom(oip.ModelInferRequest(**given))  # type: ignore[arg-type]
    return request


def named(text: str, field: str) -> oip.ModelInferRequest:
    """Return a request for inference with a text in a field of its input."""
    request = infer()
    setattr(request.inputs[0], field, text)
    return request


FIELDS: dict[str, tuple[str, Ask]] = {
    "Classify: model": (f"{OWN}Classify", lambda text: pb.ClassifyRequest(model=text)),
    "Classify: version": (f"{OWN}Classify", lambda text: pb.ClassifyRequest(model="linear", version=text)),
    "Classify: id": (f"{OWN}Classify", lambda text: pb.ClassifyRequest(id=text)),
    "ModelInfer: model_name": (f"{OIP}ModelInfer", lambda text: oip.ModelInferRequest(model_name=text)),
    "ModelInfer: model_version": (f"{OIP}ModelInfer", lambda text: infer(model_version=text)),
    "ModelInfer: id": (f"{OIP}ModelInfer", lambda text: oip.ModelInferRequest(id=text)),
    "ModelInfer: input": (f"{OIP}ModelInfer", lambda text: named(text, "name")),
    "ModelInfer: datatype": (f"{OIP}ModelInfer", lambda text: named(text, "datatype")),
    "ModelInfer: output": (
        f"{OIP}ModelInfer",
        lambda text: infer(outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name=text)]),
    ),
    "ModelMetadata: name": (f"{OIP}ModelMetadata", lambda text: oip.ModelMetadataRequest(name=text)),
    "ModelMetadata: version": (
        f"{OIP}ModelMetadata",
        lambda text: oip.ModelMetadataRequest(name="linear", version=text),
    ),
    "ModelConfig: name": (f"{OIP}ModelConfig", lambda text: model_config_pb2.ModelConfigRequest(name=text)),
    "ModelConfig: version": (
        f"{OIP}ModelConfig",
        lambda text: model_config_pb2.ModelConfigRequest(name="linear", version=text),
    ),
    "ModelStatistics: name": (f"{OIP}ModelStatistics", lambda text: extensions_pb2.ModelStatisticsRequest(name=text)),
    "ModelStatistics: version": (
        f"{OIP}ModelStatistics",
        lambda text: extensions_pb2.ModelStatisticsRequest(name="linear", version=text),
    ),
    "RepositoryIndex: repository": (
        f"{OIP}RepositoryIndex",
        lambda text: extensions_pb2.RepositoryIndexRequest(repository_name=text),
    ),
    "RepositoryModelLoad: model": (
        f"{OIP}RepositoryModelLoad",
        lambda text: extensions_pb2.RepositoryModelLoadRequest(model_name=text),
    ),
    "RepositoryModelLoad: repository": (
        f"{OIP}RepositoryModelLoad",
        lambda text: extensions_pb2.RepositoryModelLoadRequest(repository_name=text, model_name="linear"),
    ),
    "RepositoryModelLoad: parameter": (
        f"{OIP}RepositoryModelLoad",
        lambda text: extensions_pb2.RepositoryModelLoadRequest(
            model_name="linear", parameters={text: extensions_pb2.ModelRepositoryParameter(bool_param=True)}
        ),
    ),
    "RepositoryModelUnload: model": (
        f"{OIP}RepositoryModelUnload",
        lambda text: extensions_pb2.RepositoryModelUnloadRequest(model_name=text),
    ),
}


class Log:
    """The server's log as an operator sees it, a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> str:
        """Return what was written since this was called last."""
        text = self._path.read_text("utf-8")
        new, self._read = text[self._read :], len(text)
        return new


@pytest.fixture
def log(tmp_path: Path, logger: logging.Logger) -> Iterator[Log]:
    """Return the log."""
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        logs.setup("console", file)
        yield Log(path)


@pytest.fixture
def server(start_server: StartServer, repository: Path) -> Server:
    """Return a server whose models may be loaded by name."""
    return start_server(repository, allow_repository_control=True)


def failed(channel: grpc.Channel, method: str, raw: bytes) -> str:
    """Return what a call is told that fails because of what the caller sent."""
    call: Any = channel.unary_unary(method)
    with pytest.raises(grpc.RpcError) as caught:
        call(raw, timeout=WAIT)
    assert caught.value.code() in CODES
    return str(caught.value.details())


@pytest.mark.parametrize("field", FIELDS)
def test_texts(log: Log, server: Server, channel: Channel, field: str) -> None:
    """Whatever a text holds, the caller hears a few printable words, and the log has one line of that call."""
    method, ask = FIELDS[field]
    opened = channel(server)
    for what, text in HOSTILE.items():
        log.new()
        details = failed(opened, method, ask(text).SerializeToString())
        assert details.isprintable(), what
        assert len(details) < 600, what
        line, rest = log.new().split("\n", 1)
        assert rest == "", what
        assert line.isprintable(), what
        assert len(line) < 2 * logs.LONGEST, what
        assert LINE.fullmatch(line), what
    assert "evil" not in generate_latest(server.metrics.registry).decode()


@pytest.mark.parametrize(
    "raw", [b"\x0a\x02\xff\xfe", b"\x2a\x04a\xed\xa0\x80", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 99]
)
@pytest.mark.parametrize("method", [f"{OWN}Classify", f"{OIP}ModelInfer"])
def test_bytes_that_are_no_text(log: Log, server: Server, channel: Channel, method: str, raw: bytes) -> None:
    """A text that is no UTF-8, or longer than its message, is a message that is none, and one line of the log."""
    log.new()
    assert "bytes that are no message of this method" in failed(channel(server), method, raw)
    assert LINE.fullmatch(log.new().rstrip("\n"))


@pytest.mark.parametrize("what", HOSTILE)
def test_metadata(log: Log, server: Server, channel: Channel, what: str) -> None:
    """What a caller sends beside its message is in no line of the log."""
    raw = HOSTILE[what].encode()[:4000]
    call: Any = channel(server).unary_unary(f"{OWN}Classify")
    with pytest.raises(grpc.RpcError):
        call(b"", timeout=WAIT, metadata=(("evil-bin", raw), ("authorization-bin", raw)))
    assert "evil" not in log.new()


def test_methods_that_there_are_not(log: Log, start_server: StartServer, repository: Path, channel: Channel) -> None:
    """The name of a method that is not served is in no line of the log and in no series, with tokens or without."""
    tokens = repository.parent / "tokens"
    tokens.write_text("alice:0123456789abcdef\n")
    for server in (start_server(repository), start_server(repository, tokens_file=tokens)):
        for number in range(3):
            call: Any = channel(server).unary_unary(f"/evil{number}/evil")
            with pytest.raises(grpc.RpcError):
                call(b"", timeout=WAIT)
        assert "evil" not in log.new() + generate_latest(server.metrics.registry).decode()


def test_names_that_could_be(server: Server, channel: Channel) -> None:
    """Names that models could have, but have not, make no series either."""
    opened = channel(server)
    for number in range(20):
        for field in ("RepositoryModelLoad: model", "RepositoryModelUnload: model", "Classify: model"):
            method, ask = FIELDS[field]
            failed(opened, method, ask(f"evil{number}").SerializeToString())
    assert "evil" not in generate_latest(server.metrics.registry).decode()


@pytest.mark.parametrize("what", HOSTILE)
def test_access_log(log: Log, start_server: StartServer, repository: Path, channel: Channel, what: str) -> None:
    """The id of an answered call is one printable line too."""
    opened = channel(start_server(repository, access_log=True))
    request = pb.ClassifyRequest(id=HOSTILE[what], images=[pb.Image(encoded=FILE)])
    call: Any = opened.unary_unary(f"{OWN}Classify")
    log.new()
    call(request.SerializeToString(), timeout=WAIT)
    line, rest = log.new().split("\n", 1)
    assert rest == ""
    assert line.isprintable()
    assert "call  method=Classify model=linear" in line
    assert len(line) < 2 * logs.LONGEST


@pytest.mark.parametrize(
    "name", [*HOSTILE.values(), "", ".", "..", "a/b", "a\\b", ".hidden", "liveness", "x" * 129, "a b"]
)
def test_pattern(name: str) -> None:
    """None of these is a name that a model may have."""
    assert not is_name(name)
