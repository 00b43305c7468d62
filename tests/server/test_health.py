"""grpc.health.v1 and reflection over a real socket."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from service.errors import SetupError
from service.rpc.pb.inference import extensions_pb2
from service.server import Server
from tests.conftest import Channel, StartServer
from tests.fakes import WAIT
from tests.onnx_models import write_model

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "saccade.v1.ImageClassifier"
INFERENCE = "inference.GRPCInferenceService"


def check(channel: grpc.Channel, service: str) -> int:
    """Return the status of a health service."""
    method = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return int(method(health_pb2.HealthCheckRequest(service=service), timeout=WAIT).status)


def watch(channel: grpc.Channel, service: str = "") -> Iterator[health_pb2.HealthCheckResponse]:
    """Return the answers of a Watch as they come."""
    method = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answers: Iterator[health_pb2.HealthCheckResponse] = iter(method(health_pb2.HealthCheckRequest(service=service)))
    return answers


@pytest.mark.parametrize("service", ["", SERVICE, INFERENCE, "linear", "liveness"])
def test_everything_serves(start_server: StartServer, channel: Channel, repository: Path, service: str) -> None:
    """With every model served, the server, the service, the model and liveness are SERVING."""
    assert check(channel(start_server(repository)), service) == SERVING


def test_unknown_service(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Checking a service that is not there is NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as caught:
        check(channel(start_server(repository)), "nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("ready", "overall"), [("all", NOT_SERVING), ("any", SERVING)])
def test_one_model_failed(
    start_server: StartServer, channel: Channel, repository: Path, ready: str, overall: int
) -> None:
    """A model without a version that passed keeps the server from SERVING, unless `--ready any`."""
    write_model(repository / "broken" / "1", wrong_by=0.1)
    opened = channel(start_server(repository, ready=ready))
    assert check(opened, "") == check(opened, SERVICE) == check(opened, INFERENCE) == overall
    assert check(opened, "broken") == NOT_SERVING
    assert check(opened, "linear") == check(opened, "liveness") == SERVING


@pytest.mark.parametrize(("allow_empty", "overall"), [(False, NOT_SERVING), (True, SERVING)])
def test_empty_repository(
    start_server: StartServer, channel: Channel, tmp_path: Path, *, allow_empty: bool, overall: int
) -> None:
    """An empty repository is NOT_SERVING, unless `--allow-empty`; liveness is SERVING."""
    opened = channel(start_server(tmp_path, allow_empty=allow_empty))
    assert check(opened, "") == overall
    assert check(opened, "liveness") == SERVING


def test_long_names(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A name longer than any model's is refused, by Watch as well, which would keep it."""
    opened = channel(start_server(repository))
    for ask in (lambda: check(opened, "x" * 2000), lambda: next(watch(opened, "x" * 2000))):
        with pytest.raises(grpc.RpcError) as caught:
            ask()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_watch_holds_no_thread(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Fifty open Watches do not keep health from answering."""
    opened = channel(start_server(repository))
    watches = [watch(opened) for _ in range(50)]
    assert all(next(answers).status == SERVING for answers in watches)
    assert check(opened, "") == SERVING


def test_drain_tells_a_watch(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A Watch hears NOT_SERVING as soon as the server drains, and does not hold the drain."""
    server: Server = start_server(repository, grace=WAIT)
    answers = watch(channel(server))
    assert next(answers).status == SERVING
    heard: queue.Queue[int] = queue.Queue()
    listener = threading.Thread(target=lambda: heard.put(next(answers).status))
    listener.start()
    drain = threading.Thread(target=lambda: server.drain(delay=0, refuse=0))
    drain.start()
    assert heard.get(timeout=WAIT) == NOT_SERVING
    drain.join(WAIT / 2)
    assert not drain.is_alive(), "the Watch held the drain"
    listener.join(WAIT)


def control(channel: grpc.Channel, method: str, name: str) -> None:
    """Load or unload a model."""
    call: Any = channel.unary_unary(
        f"/{INFERENCE}/RepositoryModel{method}",
        request_serializer=extensions_pb2.RepositoryModelLoadRequest.SerializeToString,  # the same fields in both
        response_deserializer=None,
    )
    call(extensions_pb2.RepositoryModelLoadRequest(model_name=name), timeout=WAIT)


def test_a_watch_follows_loads(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A Watch of a model hears when it is loaded and when it is let go; the server as a whole serves on."""
    opened = channel(start_server(repository, allow_repository_control=True))
    answers = watch(opened, "other")
    heard = [next(answers).status]
    write_model(repository / "other" / "1")
    for method in ("Load", "Unload"):
        control(opened, method, "other")
        heard.append(next(answers).status)
        assert check(opened, "") == check(opened, INFERENCE) == SERVING
    assert heard == [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN, SERVING, NOT_SERVING]


def test_a_failed_load_is_not_the_servers(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A new model that fails to load is NOT_SERVING, and the server as a whole stays SERVING."""
    opened = channel(start_server(repository, allow_repository_control=True))
    write_model(repository / "other" / "1", wrong_by=0.1)
    with pytest.raises(grpc.RpcError) as caught:
        control(opened, "Load", "other")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (check(opened, "other"), check(opened, "")) == (NOT_SERVING, SERVING)


def test_the_last_model_unloaded(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A server whose last model was unloaded is NOT_SERVING, until one is loaded."""
    opened = channel(start_server(repository, allow_repository_control=True))
    control(opened, "Unload", "linear")
    assert (check(opened, ""), check(opened, "linear")) == (NOT_SERVING, NOT_SERVING)
    control(opened, "Load", "linear")
    assert (check(opened, ""), check(opened, "linear")) == (SERVING, SERVING)


def test_idle_streams_do_not_hold_the_drain(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Open reflection streams on which nobody speaks do not delay the end of a drain."""
    server: Server = start_server(repository, grace=WAIT)
    method = channel(server).stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    silent = threading.Event()

    def one_question() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        silent.wait(WAIT)

    streams = [iter(method(one_question())) for _ in range(4)]
    assert all(next(stream).HasField("list_services_response") for stream in streams)
    drain = threading.Thread(target=lambda: server.drain(delay=0, refuse=0))
    drain.start()
    drain.join(WAIT / 2)
    assert not drain.is_alive(), "the idle streams held the drain"
    silent.set()


def test_reflection_shows_the_file_by_its_name(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Reflection lists the services, and the API's file under the name that its users compile it by."""
    method = channel(start_server(repository)).stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    services, file = method(iter(asked), timeout=WAIT)
    assert {service.name for service in services.list_services_response.service} >= {SERVICE, "grpc.health.v1.Health"}
    raw, *_ = file.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(raw).name == "saccade/v1/classifier.proto"


def test_reflection_to_a_generic_client(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A client that knows nothing finds both services, their methods and the messages' fields by reflection."""
    database = ProtoReflectionDescriptorDatabase(channel(start_server(repository)))
    assert set(database.get_services()) >= {SERVICE, INFERENCE}
    pool = DescriptorPool(database)
    methods = pool.FindServiceByName(INFERENCE).methods_by_name
    assert {"ModelInfer", "ModelStreamInfer", "ModelConfig", "ModelStatistics", "LogSettings"} <= set(methods)
    asked = GetMessageClass(methods["ModelInfer"].input_type)(model_name="linear", raw_input_contents=[b"1"])
    assert asked.SerializeToString() == b"\x0a\x06linear\x3a\x011"


def test_reflection_off(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """With --no-reflection there is none."""
    method: Any = channel(start_server(repository, reflection=False)).stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=None,
        response_deserializer=None,
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(method(iter([b""]), timeout=WAIT))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_taken_port_is_an_error(start_server: StartServer, repository: Path) -> None:
    """A second server on the same port is refused with the flag and what to do, and leaves the first alone."""
    first: Server = start_server(repository)
    with pytest.raises(SetupError, match=r"--grpc-port .* cannot be had"):
        start_server(repository, grpc_port=first.grpc_port)
    with pytest.raises(SetupError, match="--metrics-port"):
        start_server(repository, metrics_port=first.metrics_port)
