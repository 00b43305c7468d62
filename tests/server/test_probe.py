"""`saccade probe` against real servers: plain, TLS, mTLS, and those that are not there."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.probe import main
from service.server import Server
from tests.certificates import Authority
from tests.conftest import StartServer
from tests.fakes import WAIT
from tests.onnx_models import write_model

Secure = Callable[..., Server]


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the address that this process was given."""
    monkeypatch.delenv("SACCADE_ADDRESS", raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return who signs everybody's certificates."""
    return Authority(tmp_path)


@pytest.fixture
def secure(start_server: StartServer, repository: Path, authority: Authority) -> Secure:
    """Return what starts a server with TLS, whose certificate is good for saccade.example.org alone."""
    pair = authority.sign("server", "saccade.example.org")
    return lambda **settings: start_server(
        repository, tls_certificate=pair.certificate_file, tls_key=pair.key_file, **settings
    )


def probe(server: Server | None, *flags: str) -> int:
    """Probe a server; patiently, since the machine may be busy."""
    port = server.grpc_port if server else 1
    return main(["--address", f"127.0.0.1:{port}", "--timeout", str(WAIT), *flags])


@pytest.mark.parametrize("service", ["", "liveness", "linear", "saccade.v1.ImageClassifier"])
def test_serving(start_server: StartServer, repository: Path, service: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What serves is exit code 0."""
    assert probe(start_server(repository), "--service", service) == 0
    assert capsys.readouterr() == ("SERVING\n", "")


def test_not_serving(start_server: StartServer, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What does not serve is exit code 1, and the text says of what; the process is alive all the same."""
    write_model(repository / "broken" / "1", wrong_by=0.1)
    server = start_server(repository)
    assert probe(server, "--service", "broken") == probe(server) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"saccade: 127.0.0.1:{server.grpc_port} says NOT_SERVING of 'broken'",
        f"saccade: 127.0.0.1:{server.grpc_port} says NOT_SERVING of the whole server",
    ]
    assert probe(server, "--service", "liveness") == 0


def test_unknown_service(start_server: StartServer, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A service that nobody knows is exit code 1 and names what there may be."""
    assert probe(start_server(repository), "--service", "nobody") == 1
    assert "knows no service 'nobody'; ask for a model's name, `liveness`" in capsys.readouterr().err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is not there is exit code 1."""
    assert probe(None) == 1
    assert "127.0.0.1:1 cannot be reached" in capsys.readouterr().err


def test_tls(secure: Secure, authority: Authority) -> None:
    """Over TLS, with the name that is in the certificate."""
    assert probe(secure(), "--tls-ca", str(authority.file), "--server-name", "saccade.example.org") == 0


def test_tokens(secure: Secure, authority: Authority, tmp_path: Path) -> None:
    """A server that asks for tokens asks a probe for none."""
    (tmp_path / "tokens").write_text("alice:0123456789abcdef\n")
    server = secure(tokens_file=tmp_path / "tokens")
    assert probe(server, "--tls-ca", str(authority.file), "--server-name", "saccade.example.org") == 0


def test_wrong_name(secure: Secure, authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate of another name is exit code 1, and the text says what to look at."""
    assert probe(secure(), "--tls-ca", str(authority.file)) == 1
    assert "else --server-name" in capsys.readouterr().err


def test_another_authority(secure: Secure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate that somebody else signed is exit code 1, and the text says what to look at."""
    other = Authority(tmp_path, "other")
    assert probe(secure(), "--tls-ca", str(other.file), "--server-name", "saccade.example.org") == 1
    assert "Does --tls-ca sign the server's certificate" in capsys.readouterr().err


def test_plain_to_tls(secure: Secure, capsys: pytest.CaptureFixture[str]) -> None:
    """Without TLS a server that speaks it is exit code 1, and the text says what to give."""
    assert probe(secure()) == 1
    assert "if it speaks TLS, give --tls-ca" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "code"), [(True, 0), (False, 1)])
def test_mutual(
    secure: Secure, authority: Authority, capsys: pytest.CaptureFixture[str], *, given: bool, code: int
) -> None:
    """With mTLS a probe needs a certificate of its own."""
    own = authority.sign("probe")
    flags = ["--tls-certificate", str(own.certificate_file), "--tls-key", str(own.key_file)] if given else []
    server = secure(tls_client_ca=authority.file)
    assert probe(server, "--tls-ca", str(authority.file), "--server-name", "saccade.example.org", *flags) == code
    assert ("ask for --tls-certificate" in capsys.readouterr().err) != given


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is exit code 1 and its name."""
    assert probe(None, "--tls-ca", str(tmp_path / "nowhere.pem")) == 1
    assert "nowhere.pem cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--timeout", "0"], "more than 0"),
        (["--timeout", "soon"], "soon"),
        (["--tls-key", "x"], "go together"),
        (["--server-name", "x"], "use --tls or --tls-ca as well"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_used_wrongly(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is used wrongly is exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("module", ["service", "service.cli"])
def test_command(start_server: StartServer, repository: Path, module: str) -> None:
    """As a command too, by the quick way in and by the other."""
    address = f"127.0.0.1:{start_server(repository).grpc_port}"
    command = [sys.executable, "-W", "error", "-m", module, "probe", "--address", address, "--timeout", str(WAIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3 * WAIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")


def test_light() -> None:
    """What makes the other commands slow to start is not loaded: it runs every few seconds."""
    code = "import service.__main__, service.probe, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"numpy", "pydantic", "typer", "rich", "PIL", "prometheus_client"}
