"""The HTTP server of the metrics: plain or TLS, a thread for each scrape. Standard library only."""

import contextlib
import io
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from service import logs
from service.errors import SetupError

Context = Callable[[], ssl.SSLContext | None]
"""Returns what a new connection speaks TLS with, None for plain HTTP; asked anew for each, so that a new certificate
needs no restart."""

_PATIENCE = 10.0
"""Seconds that a scraper may be silent, in its handshake too."""
_LOOK = 0.1
"""Seconds until `stop` is noticed."""
MOST = 32
"""Connections at a time, each of which holds a thread; the oldest is cut for a newer one. A scrape takes milliseconds,
or a second where a worker is busy, so that what is old is a caller who sends a byte now and then, or none."""


class _Server(ThreadingMixIn, WSGIServer):
    """Handshakes on the connection's own thread: on the listening one a silent caller would hold up all others."""

    daemon_threads = True
    request_queue_size = 64
    context: Context

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._lock = threading.Lock()
        self._open: dict[Any, socket.socket] = {}  # by the accepted socket, the oldest first
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking the resolver for this machine's name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base has it
        """Answer one connection on a thread of its own."""
        with self._lock:
            oldest = self._open.pop(next(iter(self._open))) if len(self._open) >= MOST else None
            self._open[request] = request
        if oldest is not None:
            with contextlib.suppress(OSError):  # it has just ended by itself
                socket.socket.shutdown(oldest, socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base has it
        """Answer one connection."""
        try:
            request.settimeout(_PATIENCE)
            context = self.context()
            if context is None:
                super().finish_request(request, client_address)
                return
            with context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
                with self._lock:
                    if request not in self._open:  # cut meanwhile, which the new socket has not noticed
                        return
                    self._open[request] = secured
                secured.do_handshake()
                super().finish_request(secured, client_address)
        except OSError as error:  # ssl.SSLError is one: no TLS, no certificate of ours, cut, or gone
            logs.sometimes("scrape failed", peer=client_address[0], reason=str(error))
        finally:
            with self._lock:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as the base has it
        """Log what went wrong; the base would print a stack."""
        logs.sometimes("scrape failed", peer=client_address[0], reason=repr(sys.exception()))


class _Quiet(WSGIRequestHandler):
    """Logs failures alone, and those as everything else is logged."""

    def handle(self) -> None:
        """Answer one request."""
        self._stack = io.StringIO()
        super().handle()
        if stack := self._stack.getvalue():
            logs.sometimes("metrics failed", peer=self.client_address[0], reason=stack.splitlines()[-1])

    def get_stderr(self) -> Any:  # noqa: ANN401 - as the base has it
        """Return where a stack goes when the answer could not be made or sent."""
        return self._stack

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing: a scrape is no event."""


def serve(app: Any, host: str, port: int, context: Context = lambda: None) -> tuple[int, Callable[[], None]]:  # noqa: ANN401 - a WSGI application
    """Serve a WSGI application; return the port and what stops it.

    Args:
        app: the application.
        host: address to listen on.
        port: 0 for a free one.
        context: for TLS; plain HTTP if it returns none.

    Raises:
        SetupError: the port is taken.
    """
    kind = type("_Server", (_Server,), {"address_family": socket.AF_INET6}) if ":" in host else _Server
    try:
        server = kind((host, port), _Quiet)
    except OSError as error:
        raise SetupError(
            f"--metrics-port {port} on {host}: {error.strerror}; choose another, or 0 for a free one"
        ) from None
    server.context = context
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, args=(_LOOK,), name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop
