"""Triton's own client, unmodified, against a server with mTLS and tokens."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.conftest import StartServer
from tests.triton import TritonClient, pixels, rows

TOKEN = "triton-0123456789abcdef"
UNAUTHENTICATED, DENIED = "StatusCode.UNAUTHENTICATED", "StatusCode.PERMISSION_DENIED"

Open = Callable[..., TritonClient]


@pytest.fixture
def secure(start_server: StartServer, repository: Path, tmp_path: Path) -> Iterator[Open]:
    """Return what connects Triton's client to a server that asks for a certificate and for tokens."""
    authority = Authority(tmp_path)
    pair, own = authority.sign("server"), authority.sign("caller")
    (tmp_path / "tokens").write_text(f"triton:{TOKEN}\noperator:{TOKEN}-operator repository\n")
    server = start_server(
        repository,
        tls_certificate=pair.certificate_file,
        tls_key=pair.key_file,
        tls_client_ca=authority.file,
        tokens_file=tmp_path / "tokens",
        allow_repository_control=True,
    )
    clients = []

    def connect(*, certificate: bool = True) -> TritonClient:
        given = {"private_key": str(own.key_file), "certificate_chain": str(own.certificate_file)}
        clients.append(
            TritonClient(
                f"localhost:{server.grpc_port}",
                ssl=True,
                root_certificates=str(authority.file),
                **(given if certificate else {}),
            )
        )
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def bearer(token: str) -> dict[str, str]:
    """Return the headers that carry a token."""
    return {"authorization": f"Bearer {token}"}


def test_with_both(secure: Open) -> None:
    """With its settings for certificates and headers it is answered, and told what it may not do."""
    client, headers = secure(), bearer(TOKEN)
    assert client.call("is_server_ready", headers=headers) is True
    assert len(rows(client.do("infer", pixels=pixels(2), headers=headers))) == 2
    client.do("start_stream", headers=headers)
    client.do("send", pixels=pixels(), request_id="streamed")
    assert client.do("result")["id"] == "streamed"
    client.do("stop_stream")
    assert client.call("unload_model", model_name="linear", headers=headers)["status"] == DENIED
    assert client.call("load_model", model_name="linear", headers=bearer(f"{TOKEN}-operator")) is None


@pytest.mark.parametrize("headers", [{}, bearer(f"{TOKEN}x")], ids=["no token", "a wrong token"])
def test_without_a_token(secure: Open, headers: dict[str, str]) -> None:
    """Its certificate alone is not enough: everything is UNAUTHENTICATED."""
    client = secure()
    assert client.call("is_server_ready", headers=headers)["status"] == UNAUTHENTICATED
    assert client.do("infer", pixels=pixels(), headers=headers)["status"] == UNAUTHENTICATED
    client.do("start_stream", headers=headers)
    client.do("send", pixels=pixels())
    assert client.do("result")["status"] == UNAUTHENTICATED


def test_without_a_certificate(secure: Open) -> None:
    """Nor is its token."""
    answer = secure(certificate=False).call("is_server_ready", headers=bearer(TOKEN))
    assert answer["status"] == "StatusCode.UNAVAILABLE"
