"""The client and real servers behind TLS, certificates of callers and tokens; threads and asyncio."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.client import Answer, AsyncClient, Client, Connection
from service.errors import DeadlineExceeded, NotAllowed, SaccadeError, SetupError, Unavailable
from service.server import Server
from tests.certificates import Authority, Pair
from tests.conftest import StartServer
from tests.fakes import WAIT
from tests.onnx_models import pictures

[PICTURE] = pictures(1)
TOKEN, OTHER = "alice-0123456789abcdef", "alice-fedcba9876543210"
SHORT = 0.5
"""Seconds for calls that must fail: a handshake that fails is repeated until the deadline."""

Start = Callable[..., Connection]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return who signs certificates."""
    return Authority(tmp_path)


@pytest.fixture
def start(start_server: StartServer, repository: Path, authority: Authority) -> Start:
    """Return what starts a server with TLS and says how to reach it: trusting its authority, nothing more."""

    def connection(pair: Pair | None = None, **settings: object) -> Connection:
        pair = pair or authority.sign("server")
        server: Server = start_server(
            repository, tls_certificate=pair.certificate_file, tls_key=pair.key_file, **settings
        )
        return Connection((f"localhost:{server.grpc_port}",), tls_ca=authority.file)

    return connection


def answers(connection: Connection) -> list[Answer]:
    """Return what a call and a stream give, of the client and of its twin; all of them, or the first error."""

    async def twin() -> list[Answer]:
        async with AsyncClient(connection=connection) as client:
            return [await client.classify(PICTURE), *[item.result() async for item in client.stream([PICTURE])]]

    with Client(connection=connection) as client:
        assert client.ready(timeout=10)
        assert [entry.name for entry in client.models()] == ["linear"]
        said = [client.classify(PICTURE), *(item.result() for item in client.stream([PICTURE]))]
    return [*said, *asyncio.run(twin())]


def failures(connection: Connection, seconds: float = SHORT) -> list[SaccadeError]:
    """Return the errors of a call and a stream, of the client and of its twin, none of which may be answered."""

    async def twin() -> list[SaccadeError]:
        async with AsyncClient(connection=connection, timeout=seconds) as client:
            return [await failure(client.classify(PICTURE)), await failure(streamed(client))]

    async def failure(answer: Any) -> SaccadeError:  # noqa: ANN401 - awaitable
        with pytest.raises(SaccadeError) as caught:
            await answer
        return caught.value

    async def streamed(client: AsyncClient) -> None:
        async for item in client.stream([PICTURE]):
            item.result()

    with Client(connection=connection, timeout=seconds) as client:
        with pytest.raises(SaccadeError) as called:
            client.classify(PICTURE)
        with pytest.raises(SaccadeError) as item:
            next(client.stream([PICTURE])).result()
    return [called.value, item.value, *asyncio.run(twin())]


def changed(connection: Connection, **fields: object) -> Connection:
    """Return the same connection but for some fields."""
    names = ("addresses", "tls_ca", "tls_certificate", "tls_key", "token_file")
    given: Any = {name: getattr(connection, name) for name in names} | fields
    return Connection(**given)


def test_tls(start: Start) -> None:
    """Who trusts the server's authority is answered."""
    assert [answer.model for answer in answers(start())] == ["linear"] * 4


def test_other_authority(start: Start, tmp_path: Path) -> None:
    """A server that another authority signed is not talked to, and one with TLS not without."""
    connection = start()
    for wrong in (changed(connection, tls_ca=Authority(tmp_path, "other").file), changed(connection, tls_ca=None)):
        assert {type(error) for error in failures(wrong)} <= {Unavailable, DeadlineExceeded}


def test_mutual(start: Start, authority: Authority) -> None:
    """A server that asks for certificates answers who has one, and nobody else."""
    connection = start(tls_client_ca=authority.file)
    own = authority.sign("caller")
    known = changed(connection, tls_certificate=own.certificate_file, tls_key=own.key_file)
    assert [answer.model for answer in answers(known)] == ["linear"] * 4
    assert {type(error) for error in failures(connection)} <= {Unavailable, DeadlineExceeded}


def test_token(start: Start, tmp_path: Path) -> None:
    """The token of the file travels with every call and stream, also a new one; without it a call is NotAllowed."""
    accepted, token = tmp_path / "tokens", tmp_path / "token"
    accepted.write_text(f"alice:{TOKEN}\nalice:{OTHER}\n")
    accepted.chmod(0o600)
    token.write_text(f"{TOKEN}\n")
    connection = start(tokens_file=accepted)
    known = changed(connection, token_file=token)
    assert len(answers(known)) == 4
    with Client(connection=known) as client:
        assert client.classify(PICTURE).model == "linear"
        token.write_text("alice-of-no-use-0123456789")
        with pytest.raises(NotAllowed):
            client.classify(PICTURE)
        token.write_text(OTHER)
        assert client.classify(PICTURE).model == "linear"
        token.unlink()
        with pytest.raises(SetupError, match=str(token)):
            client.classify(PICTURE)
    assert {type(error) for error in failures(connection, WAIT)} == {NotAllowed}


def test_a_token_in_the_clear(start_server: StartServer, repository: Path, tmp_path: Path) -> None:
    """On this machine a token goes without TLS."""
    accepted, token = tmp_path / "tokens", tmp_path / "token"
    accepted.write_text(f"alice:{TOKEN}\n")
    accepted.chmod(0o600)
    token.write_text(TOKEN)
    server: Server = start_server(repository, tokens_file=accepted)
    assert len(answers(Connection((f"127.0.0.1:{server.grpc_port}",), token_file=token))) == 4
