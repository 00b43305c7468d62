"""The load generator against real servers."""

import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.connection import Connection
from service.load import processes
from service.load.objective import met, parse
from service.load.outcome import Outcome
from service.load.plan import Kind, Load
from service.load.processes import Loaders, run
from service.load.search import find_max, kept_up
from service.load.sender import Sample
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.certificates import Authority
from tests.conftest import StartServer
from tests.fake_server import METHOD as FAKE
from tests.fake_server import FakeServer
from tests.fakes import WAIT, Job
from tests.processes import LOADED

ALICE = "a" * 32
METHOD = "/saccade.v1.ImageClassifier/Classify"
REQUEST = pb.ClassifyRequest(
    images=[pb.Image(pixels=pb.Pixels(height=8, width=8, channels=1, data=bytes(64)))]
).SerializeToString()


def counted(server: Server, method: str, code: str) -> float:
    """Return how many calls the server counted."""
    labels = {"model": "linear", "method": method, "code": code}
    return server.metrics.registry.get_sample_value("saccade_requests_total", labels) or 0.0


@pytest.mark.parametrize("rate", [None, 50.0])
@pytest.mark.parametrize(("kind", "method"), [("unary", "Classify"), ("stream", "ClassifyStream")])
def test_answers_are_counted(
    start_server: StartServer, repository: Path, kind: Kind, method: str, rate: float | None
) -> None:
    """A load of calls or of messages counts answers that the server counted too, each with its latency."""
    server: Server = start_server(repository)
    path = f"/saccade.v1.ImageClassifier/{method}"
    load = Load(f"127.0.0.1:{server.grpc_port}", path, REQUEST, 4, 0.5, 0.1, kind=kind, rate=rate, framing="saccade")
    outcome = run(load)
    assert not outcome.failed
    assert 0 < outcome.answered <= counted(server, method, "OK")
    assert outcome.latencies.get_total_count() == outcome.answered
    assert 0 < outcome.milliseconds(50) <= outcome.milliseconds(99)


@pytest.mark.parametrize(("kind", "method"), [("unary", "Classify"), ("stream", "ClassifyStream")])
def test_failures_are_counted_by_status(start_server: StartServer, repository: Path, kind: Kind, method: str) -> None:
    """Calls and messages that fail are counted by their status, and not as answers."""
    server: Server = start_server(repository)
    bad = pb.ClassifyRequest(model="nobody", images=[pb.Image(encoded=b"x")]).SerializeToString()
    path = f"/saccade.v1.ImageClassifier/{method}"
    outcome = run(Load(f"127.0.0.1:{server.grpc_port}", path, bad, 2, 0.3, 0.1, kind=kind, framing="saccade"))
    assert outcome.answered == 0
    assert set(outcome.failed) == {"NOT_FOUND"}
    assert "nobody" in outcome.details["NOT_FOUND"]


def measured(load: Load, **server: Any) -> Outcome:  # noqa: ANN401 - what FakeServer takes
    """Return what came of a load on a fake."""
    with FakeServer(**server) as fake:
        return run(
            Load(fake.address, FAKE, b"", load.concurrency, load.seconds, 0.0, rate=load.rate, arrivals="constant")
        )


def longer(outcome: Outcome, seconds: float) -> int:
    """Return how many answers took longer."""
    return sum(latency > seconds * 1e6 for window in outcome.windows for latency in window.latencies)


def test_open_loop_sees_a_real_stall() -> None:
    """A server that stalls for a second late in a load of 50 calls a second makes about half of them 0.5 s late."""
    outcome = measured(Load("", "", b"", 1, 2.5, rate=50), service=0.001, stall_at=25, stall=1.0)
    assert outcome.answered == 125
    assert longer(outcome, 0.5) >= 24
    assert outcome.milliseconds(100) >= 1000
    assert outcome.milliseconds(90) >= 500


def test_closed_loop_hides_a_real_stall() -> None:
    """The same stall is one call of a closed loop, and its other calls know nothing of it."""
    outcome = measured(Load("", "", b"", 1, 2.5), service=0.001, stall_at=25, stall=1.0)
    assert longer(outcome, 0.9) == 1
    assert outcome.milliseconds(50) < 900


def test_processes_share_a_load() -> None:
    """Two processes together offer what was asked, and their outcomes add up."""
    with FakeServer() as fake:
        outcome = run(Load(fake.address, FAKE, b"", 1, 1.0, 0.0, rate=60, arrivals="constant"), processes=2)
        assert outcome.answered == 60 == fake.calls


def test_server_that_dies_is_counted() -> None:
    """Calls to a server that went away fail as UNAVAILABLE, in the seconds in which it was away."""
    with FakeServer() as fake:
        killer = Job(lambda: fake.stop() if fake.begun.wait(LOADED) else None)
        outcome = run(Load(fake.address, FAKE, b"", 1, 1.0, 0.0, rate=50, arrivals="constant"))
    killer.answer()
    assert outcome.calls == 50
    assert outcome.failed["UNAVAILABLE"] > 30
    assert outcome.details["UNAVAILABLE"]


def test_loaders_take_one_load_after_the_other() -> None:
    """The same process sends several loads, and tells what comes in meanwhile."""
    seen = []
    with FakeServer() as fake, Loaders() as loaders:
        for rate in (20.0, 40.0):
            load = Load(fake.address, FAKE, b"", 1, 1.0, 0.0, rate=rate, arrivals="constant")
            assert loaders.run(load, lambda sample: seen.append(sample.answered)).answered == rate
    assert 0 < sum(seen) <= 60


def test_interrupt_keeps_what_a_process_had_measured() -> None:
    """Ctrl-C while one process waits for its last answer keeps what the other one has, and both take the next load."""

    def interrupt(sample: Sample) -> None:
        if not sample.answered:  # of the process whose call is held
            raise KeyboardInterrupt

    with FakeServer(stall_at=0, stall=WAIT, threads=2) as fake, Loaders(2) as loaders:
        load = Load(fake.address, FAKE, b"", 2, 0.3, 0.0)
        outcome = loaders.run(load, interrupt)
        assert (outcome.interrupted, outcome.answered > 0) == (True, True)
        assert loaders.run(load).answered > 0


def test_a_word_to_stop_that_came_too_late() -> None:
    """A process whose load is over already takes no notice of the word to stop it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=processes._serve, args=(there,))
    process.start()
    there.close()
    here.send("stop")
    here.close()
    process.join(LOADED)
    assert process.exitcode == 0


class Interrupting(Outcome):
    """An outcome during whose reading Ctrl-C comes."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Be read so."""
        return _interrupted, ()


def _interrupted() -> Outcome:
    signal.raise_signal(signal.SIGINT)
    return Outcome(arrived=7)


@pytest.mark.usefixtures("as_in_a_terminal")
def test_interrupt_loses_no_message() -> None:
    """Ctrl-C while an outcome is read comes after it."""
    here, there = multiprocessing.Pipe()
    with here, there:
        there.send(Interrupting())
        outcome, left = Outcome(), [here]
        with pytest.raises(KeyboardInterrupt):
            processes.collect(outcome, left, None)
    assert (outcome.arrived, left) == (7, [])


@pytest.fixture
def as_in_a_terminal() -> Iterator[None]:
    """Let Ctrl-C be KeyboardInterrupt, also where the tests are a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Web(BaseHTTPRequestHandler):
    """Answers POST requests by their path, and counts connections."""

    protocol_version = "HTTP/1.1"
    connections = 0
    disable_nagle_algorithm = True  # else the body of an answer waits 40 ms for the acknowledgement of its headers

    def setup(self) -> None:
        """Count a connection."""
        type(self).connections += 1
        super().setup()

    def do_POST(self) -> None:
        """Answer as the path asks."""
        assert self.headers["Content-Type"] == "text/plain"
        assert self.rfile.read(int(self.headers["Content-Length"])) == b"ping"
        self.send_response(503 if self.path == "/busy" else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\r\npong\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"pong")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("path", "failed"), [("/plain", set()), ("/chunked", set()), ("/busy", {"HTTP_503"})])
def test_http_keeps_its_connections(path: str, failed: set[str]) -> None:
    """Requests over HTTP are answers or failures by their status, on as many connections as there are callers."""

    class Counted(Web):
        connections = 0

    with ThreadingHTTPServer(("127.0.0.1", 0), Counted) as server:
        job = Job(server.serve_forever)
        address = f"127.0.0.1:{server.server_address[1]}"
        outcome = run(Load(address, path, b"ping", 2, 0.5, 0.0, kind="http", content_type="text/plain"))
        server.shutdown()
        job.answer()
    assert set(outcome.failed) == failed
    assert outcome.calls > 10
    assert bool(outcome.answered) is not bool(failed)
    assert Counted.connections == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_find_max_of_a_real_server() -> None:
    """The search ends within 5 % of the capacity of a real server that takes 20 ms a call."""
    objective = parse("p50<1s")
    with FakeServer(0.02) as fake, Loaders() as loaders:

        def attempt(rate: float) -> bool:
            load = Load(fake.address, FAKE, b"", 1, 4.0, 0.5, rate=rate, arrivals="constant")
            outcome = loaders.run(load)
            return met(objective, outcome) and kept_up(outcome, load)

        assert find_max(attempt, start=40, most=1e4).rate == pytest.approx(50, rel=0.05)


def test_tls_and_token(start_server: StartServer, repository: Path, tmp_path: Path) -> None:
    """A load reaches a server over TLS with a token, as the client does; without the token it is refused."""
    authority, tokens, token = Authority(tmp_path), tmp_path / "tokens", tmp_path / "token"
    tokens.write_text(f"alice:{ALICE}\n")
    token.write_text(ALICE)
    pair = authority.sign("server")
    server: Server = start_server(
        repository, tls_certificate=pair.certificate_file, tls_key=pair.key_file, tokens_file=tokens
    )
    address = f"localhost:{server.grpc_port}"
    connection = Connection((address,), tls_ca=authority.file, token_file=token)
    outcome = run(Load(address, METHOD, REQUEST, 2, 0.3, 0.1, connection=connection))
    assert outcome.answered > 0
    assert not outcome.failed
    refused = run(Load(address, METHOD, REQUEST, 2, 0.3, 0.1, connection=replace(connection, token_file=None)))
    assert set(refused.failed) == {"UNAUTHENTICATED"}
