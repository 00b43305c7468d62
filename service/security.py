"""What keeps strangers out, as the settings say: certificates and tokens, read again when they change."""

import ssl
from functools import partial

import grpc

from service import logs, tls, tokens
from service.certificates import Certificates
from service.config import Settings
from service.secret_files import warn_of_readers
from service.tokens import Tokens
from service.watched import Watch, Watched


class Security:
    """Certificates and tokens of one server.

    Args:
        settings: which files.
        watch: looks at them from its start on.

    Raises:
        SetupError: a file is missing or cannot be used; the text says which, and what to do.
    """

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self._certificates = tls.certificates(settings)
        self._tokens = _tokens(settings)
        for files in (self._certificates, self._tokens):
            if files is not None:
                watch.add(files)

    def add_port(self, server: grpc.Server, address: str) -> int:
        """Let the server listen, with TLS where there is a certificate; return the port.

        Raises:
            RuntimeError: gRPC cannot have it.
        """
        watched = self._certificates
        if watched is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(watched))

    def tokens(self) -> Tokens | None:
        """Return the tokens that count now; None where none are asked for."""
        return None if self._tokens is None else self._tokens.value

    def context(self) -> ssl.SSLContext | None:
        """Return what Python's own TLS uses now; None without TLS."""
        return None if self._certificates is None else self._certificates.value.context


def _tokens(settings: Settings) -> Watched[Tokens] | None:
    path = settings.tokens_file
    if path is None:
        return None
    warn_of_readers(path, "--tokens-file")
    if settings.tls_certificate is None:
        logs.warning(
            "TOKENS TRAVEL IN THE CLEAR: whoever sees the network can use them; give --tls-certificate and --tls-key, "
            "or let something on this machine end TLS"
        )
    return Watched("tokens", [path], partial(tokens.read, path))


def _credentials(watched: Watched[Certificates]) -> grpc.ServerCredentials:
    """Return gRPC's credentials; it asks for the newest before each handshake, calls under way go on."""
    given = watched.value

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if watched.value is given:
            return None
        given = watched.value
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        newest,  # type: ignore[arg-type]  # None means no change, which its types do not say
        require_client_authentication=given.client_ca is not None,
    )


def _configuration(value: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(value.key, value.certificate)], value.client_ca)
