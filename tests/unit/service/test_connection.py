"""How to reach a server: what goes together, what a call carries, and connections of their own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.client.policy import several_servers
from service.connection import Connection
from service.errors import SetupError
from tests.fakes import WAIT


def test_token_is_read_for_each_call(tmp_path: Path) -> None:
    """The token of the file is sent as bearer token, and a new one from the next call on."""
    file = tmp_path / "token"
    file.write_text("first\n")
    connection = Connection(("example.org:8001",), tls=True, token_file=file)
    assert connection.metadata() == (("authorization", "Bearer first"),)
    file.write_text("second\n")
    assert connection.metadata() == (("authorization", "Bearer second"),)
    assert Connection().metadata() == ()


@pytest.mark.parametrize("content", [b"", b"two\nlines", "gr\u00fcn".encode()])
def test_a_file_that_is_no_token(tmp_path: Path, content: bytes) -> None:
    """A token file that is empty, has two lines or other than ASCII is an error that names the file."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(SetupError, match=str(file)):
        Connection(token_file=file).metadata()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "dns:///localhost:1", "unix:/run/saccade"]
)
def test_token_stays_here_without_tls(address: str) -> None:
    """A token goes without TLS to this machine only."""
    token = Path("token")
    assert not Connection((address,), token_file=token).secure
    for elsewhere in ("example.org:8001", "10.0.0.1:8001"):
        with pytest.raises(SetupError, match=f"{elsewhere} in the clear"):
            Connection((address, elsewhere), token_file=token)
        assert Connection((elsewhere,), token_file=token, tls_ca=Path("ca.pem")).secure


@pytest.mark.parametrize(
    ("address", "direct"), [("localhost:1", True), ("[::1]:1", True), ("unix-abstract:a", True), ("10.0.0.1:1", False)]
)
def test_calls_to_this_machine_take_no_proxy(address: str, direct: bool) -> None:  # noqa: FBT001 - a parameter
    """Calls to this machine, which may carry a token in the clear, go past a proxy that the environment names."""
    options = dict(Connection((address,))._options(address, ()))
    assert ("grpc.enable_http_proxy" in options) == direct


@pytest.mark.parametrize(
    ("addresses", "several"),
    [
        (("a:1",), False),
        (("a:1", "b:1"), True),
        (("dns:///a:1",), True),
        (("dns://10.0.0.2/a:1",), True),
        (("dns:a:1",), True),
        (("ipv4:10.0.0.1:1",), False),
        (("ipv4:10.0.0.1:1,10.0.0.2:1",), True),
    ],
)
def test_several_servers(addresses: tuple[str, ...], several: bool) -> None:  # noqa: FBT001 - a parameter
    """Calls are spread over all records of a name, however it is written, and over all addresses of a list."""
    assert several_servers(Connection(addresses)) == several


def test_fields_that_do_not_go_together() -> None:
    """A certificate without its key, no address at all, and numbers that cannot be are errors."""
    for fields in (
        {"tls_certificate": Path("c")},
        {"tls_key": Path("k")},
        {"addresses": ()},
        {"addresses": ("a:1", "")},
        {"keepalive": -1.0},
        {"keepalive": float("nan")},
        {"max_message_mb": 0},
        {"max_message_mb": 2000},
    ):
        with pytest.raises(SetupError):
            Connection(**fields)


@pytest.mark.parametrize(
    "address", ["localhost", "http://localhost:8001", "a:", "a:0", "a:65536", "a:b", " a:1", "::1:1"]
)
def test_what_is_no_address(address: str) -> None:
    """An address without a port, with a scheme or of another form is refused by name; gRPC would ask port 443."""
    with pytest.raises(SetupError, match=f"address '{address}': .*port"):
        Connection(("localhost:8001", address))


@pytest.mark.parametrize(
    "address",
    [
        *("a:1", "a.example.org:65535", "10.0.0.1:8001", "[::1]:8001", "dns:///a:1", "dns://10.0.0.1/a:1", "dns:a:1"),
        *("unix:/run/saccade", "unix:///run/saccade", "ipv4:10.0.0.1:1,10.0.0.2:1", "xds:///saccade"),
    ],
)
def test_addresses(address: str) -> None:
    """Hosts with a port and whatever else gRPC knows are addresses."""
    assert Connection((address,)).addresses == (address,)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file of the TLS settings that is not there is named when the channel is opened."""
    with pytest.raises(SetupError, match=r"certificate authorities file .*nowhere"):
        Connection(tls_ca=tmp_path / "nowhere").open_channel()


def test_each_channel_has_its_own_connection() -> None:
    """Two channels to one address come from two ports, so that they may reach two processes that share the port."""
    server = grpc.server(ThreadPoolExecutor(2))

    def peer(_: bytes, context: grpc.ServicerContext) -> bytes:
        return context.peer().encode()

    handlers: dict[str, Any] = {"Peer": grpc.unary_unary_rpc_method_handler(peer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    connection = Connection((address,))
    channels = [connection.open_channel() for _ in range(2)]
    calls: list[Any] = [channel.unary_unary("/test/Peer") for channel in channels]
    assert len({call(b"", timeout=WAIT) for call in calls}) == 2
    for channel in channels:
        channel.close()
    server.stop(None).wait(WAIT)
