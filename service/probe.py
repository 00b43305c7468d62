"""`saccade probe`: whether a server serves, as an exit code. It runs every few seconds, so it imports little."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or gRPC writes its own lines over ours when a handshake fails

import grpc
from grpc_health.v1 import health_pb2

from service.connection import Connection
from service.errors import SaccadeError, SetupError

_EXAMPLES = """examples:

  saccade probe

  saccade probe --service liveness --timeout 2

  saccade probe --address localhost:8001 --tls-ca ca.pem --server-name saccade.example.org

  saccade probe --tls-ca ca.pem --tls-certificate probe.crt --tls-key probe.key
"""
_CHECK = "/grpc.health.v1.Health/Check"
_NOT_TLS = ("connection refused", "dns", "unreachable", "timed out")
"""Of what gRPC says when nobody is there; anything else over TLS has to do with certificates."""


class NotServing(SaccadeError):
    """The server says so, or says nothing."""


def main(arguments: Sequence[str]) -> int:
    """Ask once; return 0 where the server serves and 1 where it does not. What is used wrongly exits with 2."""
    parser = command_line()
    given = parser.parse_args(arguments)
    try:
        connection = Connection(
            (given.address,),
            tls=given.tls,
            tls_ca=given.tls_ca,
            tls_certificate=given.tls_certificate,
            tls_key=given.tls_key,
            token_file=given.token_file,
        )
        if given.server_name and not connection.secure:
            raise SetupError("--server-name is of a certificate: use --tls or --tls-ca as well")
    except SetupError as error:
        parser.error(str(error))
    try:
        check(connection, given.service, timeout=given.timeout, server_name=given.server_name)
    except SaccadeError as error:
        sys.stderr.write(f"saccade: {error}\n")
        return 1
    sys.stdout.write("SERVING\n")
    return 0


def check(connection: Connection, service: str = "", *, timeout: float = 1.0, server_name: str = "") -> None:
    """Return if the server says SERVING.

    Args:
        connection: how to reach it.
        service: "" for the whole server, a model's name, a gRPC service's, or `liveness`.
        timeout: seconds.
        server_name: what its certificate says; "" for the address's host.

    Raises:
        NotServing: it says something else, or nothing; the text says what to look at.
        SetupError: a file of the connection cannot be read.
    """
    address = connection.addresses[0]
    options = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    with connection.open_channel(options=options) as channel:
        try:
            ask: Callable[..., bytes] = channel.unary_unary(_CHECK)
            raw = ask(request, timeout=timeout, metadata=connection.metadata())
        except grpc.RpcError as error:
            raise NotServing(_why(error, connection, service, timeout)) from None
    status = health_pb2.HealthCheckResponse.FromString(raw).status
    if status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
        raise NotServing(f"{address} says {name} of {repr(service) if service else 'the whole server'}")


def _why(error: grpc.RpcError, connection: Connection, service: str, timeout: float) -> str:
    """Return what the matter may be, for people who read the events of a pod."""
    address, code, text = connection.addresses[0], error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return f"{address} knows no service {service!r}; ask for a model's name, `liveness`, or nothing for all of it"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{address} did not answer within {timeout:g} s (--timeout)"
    if code is not grpc.StatusCode.UNAVAILABLE:
        return f"{address}: {code.name}: {text}"
    if connection.secure and not any(word in text.lower() for word in _NOT_TLS):
        return (
            f"{address}: no TLS connection: {text}. Does --tls-ca sign the server's certificate, is its name in there "
            "(else --server-name), and does the server ask for --tls-certificate and --tls-key?"
        )
    hint = "" if connection.secure else "; if it speaks TLS, give --tls-ca"
    return f"{address} cannot be reached: {text}{hint}"


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = argparse.ArgumentParser(
        "saccade probe",
        description="Ask a server whether it serves (grpc.health.v1); exit 0 if it does, 1 if not.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--address",
        default=os.environ.get("SACCADE_ADDRESS") or "localhost:8001",
        help="server, as host:port [env: SACCADE_ADDRESS] [default: localhost:8001]",
    )
    add("--service", default="", help="a model's name or `liveness`; else the whole server")
    add("--timeout", type=_seconds, default=1.0, help="seconds to wait for the answer [default: 1]")
    add("--tls", action="store_true", help="encrypt; trust the system's certificate authorities")
    add("--tls-ca", type=Path, metavar="FILE", help="encrypt; trust the certificate authorities of this file (PEM)")
    add("--tls-certificate", type=Path, metavar="FILE", help="own certificate (PEM), where the server asks for one")
    add("--tls-key", type=Path, metavar="FILE", help="private key of --tls-certificate (PEM)")
    add("--server-name", default="", help="name in the server's certificate, where it is not the address's host")
    add("--token-file", type=Path, metavar="FILE", help="bearer token to send; the server itself needs none for this")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: it must be more than 0 and at most 3600 seconds")
    return seconds
