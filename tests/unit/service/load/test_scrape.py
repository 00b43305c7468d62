"""The server's own view, from two looks at its metrics."""

import socket
import urllib.request

import pytest
from prometheus_client import start_http_server

from service.load import scrape
from service.metrics import Metrics
from tests.fakes import Job

BEFORE = """# HELP saccade_images_total Pictures classified.
saccade_images_total{model="a"} 10.0
saccade_stage_seconds_sum{model="a",stage="queue"} 1.0
saccade_stage_seconds_count{model="a",stage="queue"} 10.0
saccade_batch_size_sum{model="a"} 10.0
saccade_batch_size_count{model="a"} 10.0
process_cpu_seconds_total 5.0
"""
AFTER = """saccade_images_total{model="a"} 50.0
saccade_stage_seconds_sum{model="a",stage="queue"} 1.2
saccade_stage_seconds_count{model="a",stage="queue"} 50.0
saccade_batch_size_sum{model="a"} 50.0
saccade_batch_size_count{model="a"} 20.0
saccade_refused_total{model="a",reason="queue_full"} 3.0
saccade_requests_total{code="OK",method="Classify",model="a, \\"b\\""} 40.0
process_cpu_seconds_total 5.5
process_resident_memory_bytes 1.2e+08
"""


def test_difference() -> None:
    """Means, counts and CPU are those between the two looks, not since the server started."""
    view = scrape.between(scrape.parse(BEFORE), scrape.parse(AFTER))
    assert view is not None
    assert view.stages == pytest.approx({"queue": 5.0})
    assert (view.batch, view.images) == (4.0, 40)
    assert view.refused == {"queue_full": 3}
    assert view.codes == {"OK": 40}
    assert view.cpu_seconds == pytest.approx(0.5)
    assert view.memory_mb == pytest.approx(120)


def test_restarted_server() -> None:
    """Counters that fell began again at 0, so what they say now is what happened since."""
    view = scrape.between(scrape.parse(AFTER), scrape.parse(BEFORE))
    assert view is not None
    assert view.images == 10


def test_cpu_of_a_restarted_server() -> None:
    """The CPU of a server that began meanwhile is not told: its start is no part of what pictures cost."""
    before, after = (scrape.parse(f"{AFTER}process_start_time_seconds {when}") for when in (100.0, 160.0))
    view = scrape.between(before, after)
    assert view is not None
    assert view.cpu_seconds is None


def test_another_server() -> None:
    """Metrics that are not this service's give no view."""
    assert scrape.between({}, scrape.parse("nv_inference_count 5")) is None


def test_real_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a real server's metrics is read, on this machine without the proxy that the environment names."""
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps what the environment said when it was first used
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    server, thread = start_http_server(0, addr="127.0.0.1", registry=Metrics().registry)
    try:
        samples = scrape.look(f"http://127.0.0.1:{server.server_port}/metrics")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert samples["process_cpu_seconds_total", ()] > 0


def test_a_page_of_words() -> None:
    """A web page that is none of metrics has no samples."""
    assert scrape.parse("Not Found\nup 1") == {("up", ()): 1.0}


def test_no_web_server() -> None:
    """A port that does not speak HTTP, such as gRPC's, is an OSError that says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        job = Job(lambda: _babble(listener))
        with pytest.raises(OSError, match="does not speak HTTP"):
            scrape.look(f"http://127.0.0.1:{listener.getsockname()[1]}/metrics")
        job.answer()


def _babble(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"\0\0\x12\4\0\0\0\0\0\r\n")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/metrics", "file:///etc/passwd", "http://127.0.0.1:port/"])
def test_nobody_there(url: str) -> None:
    """An endpoint that cannot be read says why."""
    with pytest.raises(OSError, match=r"."):
        scrape.look(url)
