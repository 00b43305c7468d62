"""The port that several workers share, bound by their supervisor. Standard library only."""

import socket
from typing import Any

from service.errors import SetupError


def hold(host: str, port: int) -> socket.socket:
    """Hold a port bound, for the workers to listen on.

    Nobody else can have it, with SO_REUSEADDR and SO_REUSEPORT neither: that both are set, as gRPC sets them, lets in
    who comes before anybody listens. So it is first listened on alone, and the first flag is taken off.

    Raises:
        SetupError: it is taken, or there is no such address.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if port:
            with _bound(family, kind, address) as alone:
                alone.listen()
        holder = _bound(family, kind, address)
    except OSError as error:
        raise SetupError(
            f"--grpc-port {port} on {host} cannot be had: {error.strerror}; choose another, or 0 for a free one"
        ) from None
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return holder


def _bound(family: int, kind: int, address: Any) -> socket.socket:  # noqa: ANN401 - each family has its own
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended a minute ago do not count
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
