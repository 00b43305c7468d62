"""The server's certificate, its key and the CA of its callers: read, checked, for whoever speaks TLS."""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from service import secret_files
from service.errors import SetupError

_FLAGS = ("--tls-certificate", "--tls-key", "--tls-client-ca")
_HEADER, _FOOTER = ssl.PEM_HEADER.encode(), ssl.PEM_FOOTER.encode()
_MAKE = "give PEM files, the certificate with its chain and its key without a password"


@dataclass(frozen=True, slots=True)
class Certificates:
    """One set that belongs together.

    Attributes:
        certificate: PEM, the server's own first, then its chain.
        key: PEM.
        client_ca: PEM, who must have signed a caller's certificate; None: callers need none.
        expires: when the server's own does; None where that cannot be told.
        context: the same for Python's own TLS.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expires: datetime | None
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
    try:
        expires = expiry(before[0])
    except (ValueError, IndexError):
        expires = None  # OpenSSL reads forms that have another header: no warning then
    return Certificates(before[0], before[1], before[2] if client_ca is not None else None, expires, context)


def expiry(pem: bytes) -> datetime:
    """Return when the first certificate expires: the second of the two times of its `validity`.

    Raises:
        ValueError, IndexError: there is none, or it is broken.
    """
    begin = pem.index(_HEADER)
    der = ssl.PEM_cert_to_DER_cert(pem[begin : pem.index(_FOOTER, begin) + len(_FOOTER)].decode())

    def element(place: int) -> tuple[int, int, int]:
        """Return an element's tag, and where its content begins and ends."""
        length, begin = der[place + 1], place + 2
        if length & 0x80:
            begin, length = begin + (length & 0x7F), int.from_bytes(der[begin : begin + (length & 0x7F)])
        return der[place], begin, begin + length

    place = element(element(0)[1])[1]  # into the certificate, and into what is signed of it
    if der[place] == 0xA0:  # the version
        place = element(place)[2]
    for _ in ("serialNumber", "signature", "issuer"):
        place = element(place)[2]
    tag, begin, end = element(element(element(place)[1])[2])
    text = der[begin:end].decode()
    if tag == 0x17:  # UTCTime has two digits for the year, 1950 to 2049
        text = ("20" if text[0] < "5" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


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
