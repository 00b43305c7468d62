"""Bearer tokens over a real socket: every way in is checked, but health."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from service.errors import SetupError
from service.rpc.gate import HEALTH, NEEDS
from service.rpc.pb.inference import extensions_pb2
from service.rpc.pb.inference import service_pb2 as inference
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.conftest import Channel, Lines, StartServer
from tests.fakes import WAIT
from tests.server.test_tls import looked, until

CODE = grpc.StatusCode
ALICE, OPERATOR = "alice-0123456789abcdef", "operator-0123456789abcdef"
OURS = (pb.DESCRIPTOR, inference.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in OURS
    for service in file.services_by_name.values()
    for method in service.methods
}
CHECKED = sorted(method for method in METHODS if not method.startswith(HEALTH))

Start = Callable[..., Server]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file of two callers, one of whom may load and unload models."""
    path = tmp_path / "tokens"
    path.write_text(f"alice:{ALICE}\noperator:{OPERATOR} repository\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def server(start_server: StartServer, repository: Path, path: Path) -> Server:
    """Return a server that asks for tokens."""
    return start_server(repository, tokens_file=path, allow_repository_control=True)


def status(channel: grpc.Channel, method: str, *metadata: tuple[str, str], request: bytes = b"") -> grpc.StatusCode:
    """Return the status of one RPC with one message, whatever its kind."""
    described = METHODS.get(method)
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }
    streams = (described.client_streaming, described.server_streaming) if described else (False, False)
    call = kinds[streams](method)
    try:
        answer = call(iter([request]) if streams[0] else request, timeout=WAIT, metadata=metadata)
        if streams[1]:
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return CODE.OK


def bearer(token: str) -> tuple[str, str]:
    """Return the metadata that carries a token."""
    return ("authorization", f"Bearer {token}")


def test_every_method_goes_through_the_gate(server: Server) -> None:
    """The server knows of no method but by the gate, and the gate serves those of the .proto files, each tested below.

    Whoever adds a method adds it to the gate, or it fails here.
    """
    state: Any = server._grpc._state  # type: ignore[attr-defined]
    assert state.generic_handlers == [server.gate]
    assert state.registered_method_handlers == {}
    assert server.gate.methods == METHODS.keys()


@pytest.mark.parametrize("method", CHECKED)
def test_every_method_is_checked(server: Server, channel: Channel, method: str) -> None:
    """Without a token, with a wrong one or with two, every method of every service is UNAUTHENTICATED."""
    opened = channel(server)
    assert status(opened, method) is CODE.UNAUTHENTICATED
    assert status(opened, method, bearer(ALICE[:-1])) is CODE.UNAUTHENTICATED
    assert status(opened, method, ("authorization", ALICE)) is CODE.UNAUTHENTICATED
    assert status(opened, method, bearer(ALICE), bearer(ALICE)) is CODE.UNAUTHENTICATED


@pytest.mark.parametrize("method", CHECKED)
def test_every_method_is_open_to_who_may(server: Server, channel: Channel, method: str) -> None:
    """With a right token no method is refused for want of credentials."""
    assert status(channel(server), method, bearer(OPERATOR)) not in {CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED}


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(CHECKED)))
def test_health_needs_none(server: Server, channel: Channel, method: str) -> None:
    """Health is open to everybody: probes and balancers have no token. (The library has no List.)"""
    assert status(channel(server), method) is (CODE.UNIMPLEMENTED if method.endswith("/List") else CODE.OK)


@pytest.mark.parametrize(
    "method", ["/nobody.Knows/This", "/saccade.v1.ImageClassifier/Other", "/grpc.health.v1.Health/X"]
)
def test_unknown_methods(server: Server, channel: Channel, method: str) -> None:
    """Strangers do not learn which methods there are; those who are known do."""
    opened = channel(server)
    assert status(opened, method) is CODE.UNAUTHENTICATED
    assert status(opened, method, bearer(ALICE)) is CODE.UNIMPLEMENTED


@pytest.mark.parametrize("method", sorted(NEEDS))
def test_repository_control_is_a_right(server: Server, channel: Channel, method: str) -> None:
    """Loading and unloading is PERMISSION_DENIED for a known caller without the right, and nothing happens."""
    request = extensions_pb2.RepositoryModelUnloadRequest(model_name="linear").SerializeToString()
    opened = channel(server)
    assert status(opened, method, bearer(ALICE), request=request) is CODE.PERMISSION_DENIED
    assert server.repository.readiness() == {"linear": True}
    assert status(opened, method, bearer(OPERATOR), request=request) is CODE.OK


def test_rotation(server: Server, channel: Channel, path: Path, lines: Lines) -> None:
    """A token that is added counts, and one that is taken away does not, without a restart."""
    opened, method = channel(server), "/saccade.v1.ImageClassifier/ListModels"
    newer = "alice-fedcba9876543210"
    path.write_text(f"alice:{ALICE}\nalice:{newer}\n")
    until(lambda: status(opened, method, bearer(newer)) is CODE.OK)
    assert status(opened, method, bearer(ALICE)) is CODE.OK
    path.write_text(f"alice:{newer}\n")
    until(lambda: status(opened, method, bearer(ALICE)) is CODE.UNAUTHENTICATED)
    assert status(opened, method, bearer(newer)) is CODE.OK
    assert [line["event"] for line in lines()].count("tokens read again") == 2


def test_a_wrong_file_keeps_the_old_tokens(server: Server, channel: Channel, path: Path, lines: Lines) -> None:
    """A file that went wrong changes nothing and is logged once, without a token in the log."""
    lines()
    path.write_text(f"alice:{ALICE} everything\n")
    said: list[dict[str, Any]] = []

    def warned() -> bool:
        said.extend(line for line in lines() if line["event"].startswith("tokens changed"))
        return bool(said)

    until(warned)
    looked(server)
    warned()
    assert len(said) == 1
    assert status(channel(server), CHECKED[0], bearer(ALICE)) is not CODE.UNAUTHENTICATED
    assert "line 1" in said[0]["reason"]
    assert ALICE not in str(said)


def test_refusals_are_counted_and_logged(server: Server, channel: Channel, lines: Lines) -> None:
    """A refusal is counted by reason and by method, strangers' methods as one, and no log line holds a token."""
    lines()
    opened = channel(server)
    status(opened, "/saccade.v1.ImageClassifier/Classify", bearer("wrong-0123456789abcdef"))
    for number in range(3):
        status(opened, f"/nobody/{number}")
    value = server.metrics.registry.get_sample_value
    assert value("saccade_refused_total", {"model": "", "reason": "credentials"}) == 4
    counted = {"model": "", "code": "UNAUTHENTICATED"}
    assert value("saccade_requests_total", {"method": "Classify", **counted}) == 1
    assert value("saccade_requests_total", {"method": "unknown", **counted}) == 3
    first = lines()[0]
    assert first["event"] == "calls refused"
    assert first["peer"].startswith("ipv4:127.0.0.1:")
    assert "wrong-0123456789abcdef" not in str(first)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o604, True)])
def test_warnings(
    start_server: StartServer, repository: Path, path: Path, lines: Lines, *, mode: int, warned: bool
) -> None:
    """A server says that tokens travel in the clear without TLS, and that others may read their file."""
    path.chmod(mode)
    start_server(repository, tokens_file=path)
    warnings = [line for line in lines() if line["level"] == "warning"]
    assert any(line["event"].startswith("TOKENS TRAVEL IN THE CLEAR") for line in warnings)
    assert any(line.get("flag") == "--tokens-file" for line in warnings) == warned


def test_no_tokens_at_start(start_server: StartServer, repository: Path, path: Path) -> None:
    """A server that cannot read its tokens does not start."""
    path.unlink()
    with pytest.raises(SetupError, match="--tokens-file"):
        start_server(repository, tokens_file=path)
