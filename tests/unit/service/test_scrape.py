"""The HTTP server of the metrics against callers who are slow, silent or gone."""

import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service import certificates, scrape
from tests.certificates import Authority
from tests.conftest import Lines
from tests.fakes import WAIT

Serve = Callable[..., int]


def app(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """Answer; or fail, if that is asked for."""
    if environ["PATH_INFO"] == "/fail":
        raise ValueError("no numbers\nat hand")
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"numbers"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return what serves the application and gives its port."""
    stops = []

    def start(context: scrape.Context = lambda: None) -> int:
        port, stop = scrape.serve(app, "127.0.0.1", 0, context)
        stops.append(stop)
        return port

    yield start
    for stop in stops:
        stop()


def get(port: int, path: str = "/metrics", context: ssl.SSLContext | None = None) -> str:
    """Return what the server answers."""
    url = f"{'https' if context else 'http'}://localhost:{port}{path}"
    with urllib.request.urlopen(url, timeout=WAIT, context=context) as answer:
        text: str = answer.read().decode()
    return text


def connect(port: int, beginning: bytes = b"") -> socket.socket:
    """Connect, and send the beginning of a request."""
    opened = socket.create_connection(("127.0.0.1", port), WAIT)
    opened.sendall(beginning)
    return opened


def few_threads() -> bool:
    """Return whether those that answer connections become few: what was cut takes a moment to end."""

    def few() -> bool:
        return sum("process_request_thread" in thread.name for thread in threading.enumerate()) <= scrape.MOST

    return any(few() or threading.Event().wait(0.01) for _ in range(int(WAIT / 0.01)))


@pytest.mark.parametrize("beginning", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_slow_callers(serve: Serve, beginning: bytes) -> None:
    """However many callers send half a request and wait, a scrape is answered, and they hold few threads."""
    port = serve()
    slow = [connect(port, beginning) for _ in range(5 * scrape.MOST)]
    assert get(port) == "numbers"
    assert few_threads()
    for opened in slow:
        opened.close()


def test_the_oldest_is_cut(serve: Serve) -> None:
    """Who came first makes room for who comes last; the others stay."""
    port = serve()
    first, second, *others = [connect(port, b"GET /metr") for _ in range(scrape.MOST)]
    last = connect(port, b"GET /metr")
    assert first.recv(1) == b""
    for opened in (second, last):
        opened.sendall(b"ics HTTP/1.0\r\n\r\n")
        assert opened.recv(8) == b"HTTP/1.0"
    for opened in (first, second, last, *others):
        opened.close()


def test_silent_callers_over_tls(serve: Serve, tmp_path: Path) -> None:
    """Callers who never begin their handshake make room too."""
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    context = certificates.read(pair.certificate_file, pair.key_file, None).context
    port = serve(lambda: context)
    silent = [connect(port, b"\x16\x03\x01") for _ in range(3 * scrape.MOST)]
    assert get(port, context=ssl.create_default_context(cadata=authority.certificate.decode())) == "numbers"
    assert few_threads()
    for opened in silent:
        opened.close()


def test_a_failure(serve: Serve, lines: Lines, capfd: pytest.CaptureFixture[str]) -> None:
    """An answer that cannot be made is status 500 and one line of the log, and no stack beside it."""
    port = serve()
    with pytest.raises(urllib.error.HTTPError, match="500"):
        get(port, "/fail")
    assert get(port) == "numbers"
    said = next(found for _ in range(int(WAIT / 0.01)) if (found := lines()) or threading.Event().wait(0.01))
    assert [(line["event"], line["peer"], line["reason"]) for line in said] == [
        ("metrics failed", "127.0.0.1", "at hand")
    ]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sent", [b"\x1b[2J\r\n\r\n", b"GET /" + b"x" * 70_000, b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n"])
def test_no_http(serve: Serve, lines: Lines, capfd: pytest.CaptureFixture[str], sent: bytes) -> None:
    """What is no HTTP is no line of the log, and scrapes are answered as before."""
    port = serve()
    with connect(port, sent) as opened:
        opened.shutdown(socket.SHUT_WR)
        while opened.recv(4096):
            pass
    assert get(port) == "numbers"
    assert lines() == []
    assert capfd.readouterr().err == ""
