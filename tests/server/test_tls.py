"""TLS and mTLS over real sockets with real certificates, and certificates that change under way."""

import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from service import image
from service.errors import SetupError
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.certificates import Authority, Pair, serial
from tests.conftest import Lines, StartServer
from tests.fakes import WAIT
from tests.onnx_models import pictures

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
REQUEST = pb.ClassifyRequest(images=[pb.Image(encoded=image.encode_png(pictures(1)[0]))])
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

Open = Callable[..., grpc.Channel]
Start = Callable[..., Server]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return who signs everybody's certificates."""
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    """Return the server's certificate."""
    return authority.sign("server")


@pytest.fixture
def start(start_server: StartServer, repository: Path, pair: Pair) -> Start:
    """Return what starts a server with TLS."""
    return lambda **settings: start_server(
        repository, tls_certificate=pair.certificate_file, tls_key=pair.key_file, **settings
    )


@pytest.fixture
def secure(authority: Authority) -> Iterator[Open]:
    """Return what opens a channel that trusts the authority; each has a connection of its own."""
    opened: list[grpc.Channel] = []

    def open_channel(server: Server, own: Pair | None = None, roots: bytes | None = None) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(
            roots or authority.certificate, own.key if own else None, own.certificate if own else None
        )
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        opened.append(grpc.secure_channel(f"localhost:{server.grpc_port}", credentials, options))
        return opened[-1]

    yield open_channel
    for channel in opened:
        channel.close()


def classify(channel: grpc.Channel) -> pb.ClassifyResponse:
    """Classify one picture."""
    send = channel.unary_unary(
        CLASSIFY,
        request_serializer=pb.ClassifyRequest.SerializeToString,
        response_deserializer=pb.ClassifyResponse.FromString,
    )
    answer: pb.ClassifyResponse = send(REQUEST, timeout=WAIT)
    return answer


def refused(channel: grpc.Channel) -> grpc.StatusCode:
    """Return the status of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel)
    return caught.value.code()


def shown(port: int, authority: Authority, own: Pair | None = None) -> int:
    """Return the serial number of the certificate that a server shows on a port now."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    if own:
        context.load_cert_chain(own.certificate_file, own.key_file)
    with (
        socket.create_connection(("localhost", port), WAIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der
    return serial(ssl.DER_cert_to_PEM_cert(der).encode())


def scrape(server: Server, authority: Authority, own: Pair | None = None) -> str:
    """Return what the metrics endpoint answers over TLS."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if own:
        context.load_cert_chain(own.certificate_file, own.key_file)
    url = f"https://localhost:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=WAIT, context=context) as answer:
        text: str = answer.read().decode()
    return text


def until(true: Callable[[], bool]) -> None:
    """Return when something is true; the server looks at its files once a second."""
    pause = threading.Event()
    for _ in range(int(WAIT / 0.05)):
        if true():
            return
        pause.wait(0.05)
    raise AssertionError("it never came to pass")


class Looks:
    """A file that is looked at."""

    def __init__(self) -> None:
        self.done = threading.Semaphore(0)

    def look(self) -> None:
        """Count a look."""
        self.done.release()


def looked(server: Server) -> None:
    """Return when a server has looked at all its files once more."""
    looks = Looks()
    server._watch.add(looks)
    for _ in range(2):  # the first may be of a round that has looked at the others already
        assert looks.done.acquire(timeout=WAIT)


def test_tls(start: Start, secure: Open) -> None:
    """A caller that trusts who signed the server's certificate is answered."""
    assert classify(secure(start())).model == "linear"


def test_plain_callers(start: Start) -> None:
    """A caller without TLS gets no answer."""
    with grpc.insecure_channel(f"localhost:{start().grpc_port}", [("grpc.enable_retries", 0)]) as channel:
        assert refused(channel) is UNAVAILABLE


def test_another_authority(start: Start, secure: Open, tmp_path: Path) -> None:
    """A caller that trusts somebody else does not talk to the server."""
    assert refused(secure(start(), roots=Authority(tmp_path, "other").certificate)) is UNAVAILABLE


def test_mutual(start: Start, secure: Open, authority: Authority) -> None:
    """With --tls-client-ca a caller whose certificate it signed is answered."""
    server = start(tls_client_ca=authority.file)
    assert classify(secure(server, authority.sign("caller"))).model == "linear"


@pytest.mark.parametrize("who", ["nobody", "expired", "stranger"])
def test_mutual_refuses(start: Start, secure: Open, authority: Authority, tmp_path: Path, who: str) -> None:
    """With --tls-client-ca nobody else is: no certificate, one that expired, one that somebody else signed."""
    own = {
        "nobody": None,
        "expired": authority.sign("caller", days=-1),
        "stranger": Authority(tmp_path, "other").sign("stranger"),
    }[who]
    server = start(tls_client_ca=authority.file)
    assert refused(secure(server, own)) is UNAVAILABLE
    with pytest.raises(OSError, match=r"(?i)alert|reset|EOF|closed|broken pipe"):
        scrape(server, authority, own)


def test_rotation_under_load(start: Start, secure: Open, authority: Authority, pair: Pair, lines: Lines) -> None:
    """Certificates change three times while callers call, on old connections and new ones: no call fails."""
    server = start()
    over = threading.Event()
    answered, failures = [0, 0], []

    def call(caller: int) -> None:
        lasting = secure(server)
        while not over.is_set():
            try:
                classify(lasting)
                with grpc.secure_channel(
                    f"localhost:{server.grpc_port}",
                    grpc.ssl_channel_credentials(authority.certificate),
                    [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)],
                ) as fresh:
                    classify(fresh)
                answered[caller] += 2
            except grpc.RpcError as error:
                failures.append(error)

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(2)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(3):
            successor = authority.sign("successor")
            successor.install(pair.certificate_file, pair.key_file)
            number = serial(successor.certificate)
            until(lambda number=number: shown(server.grpc_port, authority) == number)  # type: ignore[misc]
            before = list(answered)
            until(lambda before=before: all(now > then for now, then in zip(answered, before, strict=True)))  # type: ignore[misc]
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert failures == []
    assert [line["event"] for line in lines()].count("certificates read again") == 3


def test_mismatch_keeps_the_old(start: Start, secure: Open, authority: Authority, pair: Pair, lines: Lines) -> None:
    """A certificate that came without its key changes nothing; it is logged once, and counts when the key came."""
    server = start()
    successor = authority.sign("successor")
    lines()
    pair.certificate_file.write_bytes(successor.certificate)
    said: list[str] = []

    def warned() -> bool:
        said.extend(str(line["reason"]) for line in lines() if line["event"].startswith("certificates changed"))
        return bool(said)

    until(warned)
    looked(server)
    assert shown(server.grpc_port, authority) == shown(server.metrics_port, authority) == serial(pair.certificate)
    assert classify(secure(server)).model == "linear"
    pair.key_file.write_bytes(successor.key)
    until(lambda: shown(server.grpc_port, authority) == serial(successor.certificate))
    assert shown(server.metrics_port, authority) == serial(successor.certificate)
    warned()
    assert len(said) == 1
    assert "do not belong together" in said[0]


def test_client_authority_changes(start: Start, secure: Open, authority: Authority, tmp_path: Path) -> None:
    """Callers' CA is read again too: whom the new one signed is answered, whom the old one signed no longer."""
    trusted = tmp_path / "callers.pem"
    trusted.write_bytes(authority.certificate)
    server = start(tls_client_ca=trusted)
    old = authority.sign("caller")
    assert classify(secure(server, old)).model == "linear"
    other = Authority(tmp_path, "other")
    new = other.sign("newcomer")
    trusted.write_bytes(other.certificate)

    def answered() -> bool:
        try:
            return classify(secure(server, new)).model == "linear"
        except grpc.RpcError:
            return False

    until(answered)
    assert refused(secure(server, old)) is UNAVAILABLE
    assert "saccade_model_ready" in scrape(server, authority, new)
    with pytest.raises(OSError, match=r"(?i)alert|reset|EOF|closed|broken pipe"):
        scrape(server, authority, old)


def test_metrics(start: Start, authority: Authority) -> None:
    """The metrics speak TLS with the same certificate, and no plain HTTP."""
    server = start()
    assert "saccade_model_ready" in scrape(server, authority)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://localhost:{server.metrics_port}/metrics", timeout=WAIT)


def test_metrics_mutual(start: Start, authority: Authority) -> None:
    """With --tls-client-ca a scraper needs a certificate too."""
    server = start(tls_client_ca=authority.file)
    assert "saccade_model_ready" in scrape(server, authority, authority.sign("prometheus"))


def test_a_silent_scraper_holds_nobody_up(start: Start, authority: Authority) -> None:
    """Who connects to the metrics and never begins the handshake keeps nobody else waiting."""
    server = start()
    with socket.create_connection(("localhost", server.metrics_port)):
        assert "saccade_model_ready" in scrape(server, authority)


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ({"tls_key"}, "belong together; give both"),
        ({"tls_certificate"}, "belong together; give both"),
        ({"tls_certificate", "tls_key"}, "--tls-client-ca needs --tls-certificate and --tls-key"),
    ],
)
def test_half_settings(
    start_server: StartServer, repository: Path, pair: Pair, authority: Authority, *, missing: set[str], text: str
) -> None:
    """Settings that belong together are given together, or the error says which."""
    given = {"tls_certificate": pair.certificate_file, "tls_key": pair.key_file, "tls_client_ca": authority.file}
    with pytest.raises(SetupError, match=text):
        start_server(repository, **{name: path for name, path in given.items() if name not in missing})
