"""TLS, callers' certificates and tokens with several workers, as processes: what holds for one holds for all."""

import ssl
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from service.client import Client, Connection
from service.errors import NotAllowed
from tests.certificates import Authority, Pair, serial
from tests.fakes import WAIT
from tests.onnx_models import pictures, write_model
from tests.processes import ServerProcess
from tests.rolling import Callers
from tests.server.test_tls import refused, shown

pytestmark = pytest.mark.timeout(300)  # processes that start, one after the other, on a machine that may be busy

CLIENTS = 8
"""Each has a connection of its own: that all of them meet the same one of two workers happens once in 128 times."""
ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"


@dataclass(frozen=True)
class Secured:
    """Two workers that ask for certificates and tokens, and what it takes to get in."""

    server: ServerProcess
    authority: Authority
    caller: Pair
    tokens: Path
    token: Path

    @property
    def address(self) -> str:
        """Where it listens, by the name in its certificate."""
        return f"localhost:{self.server.grpc_port}"

    def connection(self, **changed: Path | None) -> Connection:
        """Return how a caller gets in, or what is missing or wrong changed."""
        files = {
            "tls_ca": self.authority.file,
            "tls_certificate": self.caller.certificate_file,
            "tls_key": self.caller.key_file,
            "token_file": self.token,
        }
        return Connection((self.address,), **{**files, **changed})  # type: ignore[arg-type]

    def stranger(self) -> grpc.Channel:
        """Return a new connection without a certificate."""
        credentials = grpc.ssl_channel_credentials(self.authority.certificate)
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(self.address, credentials, options)

    def metrics(self, caller: Pair | None) -> str:
        """Return the merged metrics."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if caller:
            context.load_cert_chain(caller.certificate_file, caller.key_file)
        address = f"https://localhost:{self.server.metrics_port}/metrics"
        with urllib.request.urlopen(address, timeout=WAIT, context=context) as answer:
            text: str = answer.read().decode()
        return text

    def all(self, event: str, *, supervisor: bool) -> None:
        """Wait until both workers have logged it, and the supervisor too where it has to."""
        heard: set[int | None] = set() if supervisor else {None}
        while len(heard) < 3:
            heard.add(self.server.wait_for(event).get("worker"))


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    """Return two workers of one small model."""
    write_model(tmp_path / "models" / "linear" / "1")
    authority = Authority(tmp_path)
    own, caller = authority.sign("server"), authority.sign("caller")
    tokens, token = tmp_path / "tokens", tmp_path / "token"
    for path, text in ((tokens, f"alice:{ALICE}\n"), (token, ALICE)):
        path.touch(mode=0o600)
        path.write_text(text)
    tls = ["--tls-certificate", str(own.certificate_file), "--tls-key", str(own.key_file)]
    known = ["--tls-client-ca", str(authority.file), "--tokens-file", str(tokens)]
    with ServerProcess(tmp_path / "models", "--workers", "2", *tls, *known) as server:
        yield Secured(server, authority, caller, tokens, token)


@pytest.fixture
def clients(secured: Secured) -> Iterator[Callable[..., list[Client]]]:
    """Return what opens clients with a connection each."""
    opened: list[Client] = []

    def some(**changed: Path | None) -> list[Client]:
        found = [Client(connection=secured.connection(**changed)) for _ in range(CLIENTS)]
        opened.extend(found)
        return found

    yield some
    for client in opened:
        client.close()


def test_strangers_get_into_no_worker(secured: Secured, clients: Callable[..., list[Client]]) -> None:
    """With certificate and token every worker answers; without either none does, nor are metrics given."""
    picture = pictures(1)[0]
    for client in clients():
        client.classify(picture)
    for client in clients(token_file=None):
        with pytest.raises(NotAllowed):
            client.classify(picture)
    for _ in range(CLIENTS):
        with secured.stranger() as channel:
            assert refused(channel) is grpc.StatusCode.UNAVAILABLE
    images = f'saccade_images_total{{model="linear"}} {CLIENTS}.0'
    assert images in secured.metrics(secured.caller).splitlines()
    with pytest.raises(OSError, match=r"(?i)certificate|alert|reset|closed|eof"):
        secured.metrics(None)


def test_new_certificates_and_tokens_reach_every_worker(secured: Secured, clients: Callable[..., list[Client]]) -> None:
    """Changed files count in every worker and for the metrics, and in who takes a place later; no call fails for it."""
    secured.server.wait_for("stand-by ready")
    turn, before = iter(range(10**9)), clients()
    callers = Callers(lambda: before[next(turn) % CLIENTS].classify(pictures(1)[0]), 2)
    renewed = secured.authority.sign("server")  # into the files that the server reads
    secured.all("certificates read again", supervisor=True)
    ports = (secured.server.grpc_port, secured.server.metrics_port)
    assert {shown(port, secured.authority, secured.caller) for port in ports} == {serial(renewed.certificate)}
    secured.tokens.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    secured.all("tokens read again", supervisor=False)
    secured.server.workers()[0].kill()
    secured.server.wait_for("worker listening")
    bob = secured.token.with_name("bob")
    bob.write_text(BOB)
    for client in clients(token_file=bob):
        client.classify(*pictures(1))
    callers.wait_for(20)
    assert not callers.stop().failed
