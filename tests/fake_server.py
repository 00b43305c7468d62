"""A gRPC server whose service time and stalls the test controls."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc

from tests.fakes import WAIT

METHOD = "/fake/Unary"


class FakeServer:
    """Works off one call after the other.

    Args:
        service: seconds that each takes; a sleep that was too long makes the next one shorter, so that this is the
            server's capacity, whatever else runs.
        stall_at: number of the call that is held, the first is 0; None for none.
        stall: seconds that it is held.
        answer: bytes of every answer.
        method: full path of the one method that it has.
        threads: calls that it works off at a time.
    """

    def __init__(
        self,
        service: float = 0.0,
        *,
        stall_at: int | None = None,
        stall: float = 0.0,
        answer: bytes = b"",
        method: str = METHOD,
        threads: int = 1,
    ) -> None:
        self._service, self._stall_at, self._stall, self._answer = service, stall_at, stall, answer
        self.calls, self._free = 0, 0.0
        self.begun, self._stopped = threading.Event(), threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(threads))
        unary: Any = grpc.unary_unary_rpc_method_handler(self._unary)
        _, service_name, name = method.split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, {name: unary}),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End at once."""
        self._stopped.set()
        self._server.stop(None).wait(WAIT)

    def _unary(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        number, self.calls = self.calls, self.calls + 1
        self.begun.set()
        if number == self._stall_at:
            self._stopped.wait(self._stall)
        elif self._service:
            now = time.monotonic()
            begins = self._free if now - self._free < self._service else now  # a moment ago it was busy
            self._free = begins + self._service
            time.sleep(max(0.0, self._free - now))
        return self._answer
