"""The certificates that the settings name, read again when they change."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from service import logs
from service.certificates import Certificates, read
from service.config import Settings
from service.errors import SetupError
from service.secret_files import warn_of_readers
from service.watched import Watched

SOON = timedelta(days=7)
"""What expires within this is warned of: who renews by itself does so long before."""


def certificates(settings: Settings) -> Watched[Certificates] | None:
    """Return what the settings name; None if nothing.

    Raises:
        SetupError: a file is missing or cannot be used; the text says which, and what to do.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None:
        if client_ca is not None:
            raise SetupError(
                "--tls-client-ca needs --tls-certificate and --tls-key: callers are asked for theirs in TLS"
            )
        return None
    if certificate is None or key is None:
        raise SetupError("--tls-certificate and --tls-key belong together; give both")
    paths: list[Path] = [path for path in (certificate, key, client_ca) if path is not None]
    warn_of_readers(key, "--tls-key")
    return Watched("certificates", paths, partial(_read, certificate, key, client_ca))


def _read(certificate: Path, key: Path, client_ca: Path | None) -> Certificates:
    """Return what the files hold; warn of a certificate that callers refuse, or soon will."""
    found = read(certificate, key, client_ca)
    if found.expires is not None and (left := found.expires - datetime.now(UTC)) < SOON:
        what = "has expired, so that callers refuse it" if left < timedelta() else "expires soon"
        logs.warning(f"the certificate {what}; renew it", path=certificate, expires=found.expires.isoformat())
    return found
