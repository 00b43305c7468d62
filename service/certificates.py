"""The server's certificate, its key and the CA of its callers: read, checked, for whoever speaks TLS."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from service import secret_files
from service.errors import SetupError

_FLAGS = ("--tls-certificate", "--tls-key", "--tls-client-ca")
_MAKE = "give PEM files, the certificate with its chain and its key without a password"


@dataclass(frozen=True, slots=True)
class Certificates:
    """One set that belongs together.

    Attributes:
        certificate: PEM, the server's own first, then its chain.
        key: PEM.
        client_ca: PEM, who must have signed a caller's certificate; None: callers need none.
        context: the same for Python's own TLS.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext = field(compare=False, repr=False)


def read(certificate: Path, key: Path, client_ca: Path | None) -> Certificates:
    """Return what the files hold.

    Raises:
        SetupError: one cannot be read, holds something else, or they do not belong together; says which.
    """
    paths = [path for path in (certificate, key, client_ca) if path is not None]
    before = [_bytes(path, flag) for path, flag in zip(paths, _FLAGS, strict=False)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # without one it would ask the terminal
    except ssl.SSLError as error:
        why = "do not belong together" if "MISMATCH" in (error.reason or "") else f"cannot be used; {_MAKE}"
        raise SetupError(f"--tls-certificate {certificate} and --tls-key {key} {why}") from None
    except OSError as error:
        raise SetupError(f"--tls-certificate {certificate}, --tls-key {key}: {error.strerror}") from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, before[2], client_ca)
    if before != [_bytes(path, flag) for path, flag in zip(paths, _FLAGS, strict=False)]:
        raise SetupError(f"--tls-certificate {certificate} and its files changed while they were read")
    return Certificates(before[0], before[1], before[2] if client_ca is not None else None, context)


def _trust(context: ssl.SSLContext, pem: bytes, path: Path) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):  # ValueError: nothing in it at all, or no text
        raise SetupError(
            f"--tls-client-ca {path} holds no certificate; give the PEM of whoever signs callers"
        ) from None


def _bytes(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        name = secret_files.shown(path) if flag == "--tls-key" else path
        raise SetupError(
            f"{flag} {name} cannot be read: {error.strerror}; name a file that this process may read"
        ) from None
