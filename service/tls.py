"""The certificates that the settings name, read again when they change."""

from functools import partial
from pathlib import Path

from service.certificates import Certificates, read
from service.config import Settings
from service.errors import SetupError
from service.secret_files import warn_of_readers
from service.watched import Watched


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
    return Watched("certificates", paths, partial(read, certificate, key, client_ca))
