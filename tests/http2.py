"""HTTP/2 byte by byte, for what no client library would send."""

import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from tests.fakes import WAIT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4

Pair = tuple[bytes, bytes]


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Connection:
    """One connection, opened and greeted.

    Args:
        port: of this machine.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT)
        self._socket.sendall(PREFACE)
        self.send(SETTINGS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ping(self) -> None:
        """Return when the server has read all that was sent."""
        self.send(PING, bytes(8))
        next(frame for frame in self.frames() if frame.kind == PING and frame.flags & ACK)

    def send(self, kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> None:
        """Send one frame."""
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._socket.sendall(head + payload)

    def call(self, stream: int, method: bytes, *extra: Pair, message: bytes | None = None) -> None:
        """Begin a gRPC call; with a message that is it, else the server waits for one."""
        self.send(HEADERS, packed(asking(method, *extra)), flags=END_HEADERS, stream=stream)
        if message is not None:
            self.send(DATA, framed(message), flags=END_STREAM, stream=stream)

    def frames(self) -> Iterator[Frame]:
        """Yield what the server sends, until it closes the connection."""
        while head := self._read(9):
            length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
            yield Frame(kind, flags, stream, self._read(length))

    def ended(self, stream: int) -> Frame:
        """Return the frame with which the server ends a stream, or the connection."""
        return next(
            frame
            for frame in self.frames()
            if frame.kind == GOAWAY or (frame.stream == stream and (frame.kind == RESET or frame.flags & END_STREAM))
        )

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            try:
                more = self._socket.recv(count - len(found))
            except ConnectionResetError:
                return b""
            if not more:
                return b""
            found += more
        return found


def asking(method: bytes, *extra: Pair) -> list[Pair]:
    """Return the headers of a gRPC call."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *extra,
    ]


def packed(pairs: Iterable[Pair]) -> bytes:
    """Return headers in HPACK, each a literal that no table keeps."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """Return a message as gRPC puts it on the wire."""
    return struct.pack(">BI", compressed, len(message)) + message


def _text(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    head, length = [127], length - 127
    while length >= 128:
        head.append(128 | length & 127)
        length >>= 7
    return bytes([*head, length]) + text
