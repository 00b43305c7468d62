"""What commands with the options of a connection say when no server is reached."""

import pytest

from service.connection import Connection
from service.errors import SaccadeError, Unavailable
from service.options import with_connection

NOBODY = (
    "localhost:8001: failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8001: "
    "Failed to connect to remote host: "
)
HINT = "; is `saccade serve` running there? --address names another server"
OPTIONS = {"address": "localhost:8001"} | dict.fromkeys(
    ("tls", "tls_ca", "tls_certificate", "tls_key", "token_file"), None
)


def said(error: SaccadeError, *, local: bool = False) -> str:
    """Return the error of a command that fails so."""

    def asks(*, connection: Connection) -> None:
        raise error

    def may_do_without(*, connection: Connection, local: bool) -> None:
        raise error

    with pytest.raises(SaccadeError) as caught:
        if local:
            with_connection(may_do_without)(**OPTIONS, local=False)
        else:
            with_connection(asks)(**OPTIONS)
    return str(caught.value)


@pytest.mark.parametrize("why", ["Connection refused", "connection attempt timed out", "Network is unreachable"])
def test_nobody_there(why: str) -> None:
    """Where nobody listens the error says what to do next."""
    assert said(Unavailable(NOBODY + why)) == NOBODY + why + HINT


def test_a_command_that_needs_no_server() -> None:
    """A command that may do without a server says so as well."""
    assert said(Unavailable(NOBODY + "Connection refused"), local=True).endswith(f"{HINT}; --local needs none")


@pytest.mark.parametrize(
    "text",
    [
        "localhost:8001: version 1 of 'a' is being loaded",
        f"{NOBODY}Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED",
    ],
)
def test_somebody_there(text: str) -> None:
    """Where somebody answers, or speaks another TLS, no other server is offered."""
    assert said(Unavailable(text)) == text
