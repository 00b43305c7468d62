"""One RPC as a test plays gRPC for it."""

from collections.abc import Callable
from typing import Any, cast

import grpc

from service.rpc.calls import Handler
from service.rpc.wire import Wire

FAR = 1e9
"""On `time.monotonic`: a moment that no test reaches."""


class FakeWire:
    """One RPC that the test plays gRPC for.

    Args:
        deadline: the caller's.
        arrived: when it came.

    Attributes:
        left: whether its caller left, as gRPC knows when all is over.
        sent: the messages of a stream that were sent.
    """

    def __init__(self, deadline: float | None = None, arrived: float = FAR) -> None:
        self.deadline = deadline
        self.arrived = arrived
        self.on_message: Callable[[bytes | None], None] | None = None
        self.ends: list[tuple[bytes | None, grpc.Status | None]] = []
        self.callbacks: list[Callable[[], None]] = []
        self.put_off: list[Callable[[], None]] = []
        self.sent: list[bytes] = []
        self.on_sent: Callable[[], None] = lambda: None
        self.is_over = self.left = self.is_cancelled = False

    def receive(self, on_message: Callable[[bytes | None], None]) -> None:
        """Keep what asks for a message."""
        self.on_message = on_message

    def on_end(self, callback: Callable[[], None]) -> bool:
        """Keep what is to be told of the end."""
        self.callbacks.append(callback)
        return not self.is_over

    def later(self, callback: Callable[[], None]) -> bool:
        """Keep what is put off."""
        self.put_off.append(callback)
        return True

    def send(self, raw: bytes, on_sent: Callable[[], None]) -> bool:
        """Keep a message, and what is to be told when it is gone."""
        self.sent.append(raw)
        self.on_sent = on_sent
        return True

    def end(self, raw: bytes | None = None, status: grpc.Status | None = None) -> None:
        """Keep how it ended."""
        self.ends.append((raw, status))

    def cancel(self) -> None:
        """Keep that it was cancelled."""
        self.is_cancelled = True

    def arrive(self, handler: Handler) -> None:
        """Hand the RPC over as gRPC does."""
        method: Any = handler
        behavior = method.stream_stream if method.request_streaming else method.unary_unary
        behavior.experimental_thread_pool.on_arrival(cast("Wire", self))

    def say(self, raw: bytes | None) -> None:
        """Let the message come."""
        assert self.on_message is not None, "nobody asked for the message"
        self.on_message(raw)

    def finish(self) -> None:
        """Let gRPC be done with it."""
        for callback in self.callbacks:
            callback()

    @property
    def code(self) -> grpc.StatusCode:
        """The status that it ended with, once."""
        [(_, status)] = self.ends
        return grpc.StatusCode.OK if status is None else status.code
