"""How to reach a server: addresses, TLS, token, keepalive; opens gRPC channels."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from .errors import SetupError

Option = tuple[str, Any]

_HOST_AND_PORT = re.compile(r"(dns:(///|//[^/]+/)?)?(\[[^\]]+\]|[^:/\[\]\s]+):(?P<port>[0-9]{1,5})")
_OTHER = re.compile(r"(unix|unix-abstract|vsock|ipv4|ipv6|xds|google-c2p):.+")
"""What gRPC knows besides hosts and ports."""
_LARGEST_PORT = 65535

_CONNECT_MS = 2000
"""A host that does not answer holds a call so long at most; gRPC's own 20 s would be more than a call's deadline."""
_FIRST_RECONNECT_MS, _LONGEST_RECONNECT_MS = 100, 1000
_RESOLVE_AGAIN_MS = 5000
"""Pods come and go within seconds; gRPC's own 30 s between look-ups would leave callers with old addresses."""

_LONGEST_KEEPALIVE = 86_400
_LARGEST_MESSAGE_MB = 1024
"""As of servers."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server, or several that serve the same models.

    Attributes:
        addresses: `host:port`, one or more. `dns:///host:port` means every server that the name has a record of.
        tls: encrypt, and trust the system's certificate authorities. Any of the next three implies it.
        tls_ca: file of the certificate authorities (PEM) to trust instead of the system's.
        tls_certificate: file of this side's certificate (PEM), for a server that asks for one; with `tls_key`.
        tls_key: file of its private key (PEM).
        token_file: file whose one line is sent as bearer token; read anew for each call, so that it may be rotated.
        keepalive: seconds without a byte after which a connection that is in use is tested; 0 tests none.
        max_message_mb: largest message that is sent or received, in MiB; the server's own default.

    Raises:
        SetupError: the fields do not go together.
    """

    addresses: tuple[str, ...] = ("localhost:8001",)
    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    keepalive: float = 20.0
    max_message_mb: int = 64

    def __post_init__(self) -> None:
        if not self.addresses or not all(self.addresses):
            raise SetupError(f"addresses {self.addresses}: at least one is needed, such as localhost:8001, none empty")
        for address in self.addresses:
            _check(address)
        if not 0 <= self.keepalive <= _LONGEST_KEEPALIVE:
            raise SetupError(f"keepalive {self.keepalive}: must be from 0 (none) to {_LONGEST_KEEPALIVE:,} seconds")
        if not 1 <= self.max_message_mb <= _LARGEST_MESSAGE_MB:
            raise SetupError(f"max_message_mb {self.max_message_mb}: must be from 1 to {_LARGEST_MESSAGE_MB:,}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SetupError("a client certificate and its key go together: give both or neither")
        if self.token_file and not self.secure:
            for address in self.addresses:
                if not is_here(address):
                    raise SetupError(f"the token would travel to {address} in the clear: use TLS as well")

    @property
    def secure(self) -> bool:
        """Whether it is encrypted."""
        return self.tls or bool(self.tls_ca or self.tls_certificate)

    @property
    def max_message_bytes(self) -> int:
        """The largest message, in bytes."""
        return self.max_message_mb * 1024 * 1024

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what every call must carry: the token, if there is one.

        Raises:
            SetupError: its file cannot be read or is empty.
        """
        if self.token_file is None:
            return ()
        token = _read(self.token_file, "token").decode("latin-1").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise SetupError(f"the token file {self.token_file} must hold one line of printable ASCII")
        return (("authorization", f"Bearer {token}"),)

    def open_channel(self, address: str = "", options: tuple[Option, ...] = ()) -> grpc.Channel:
        """Return a channel with a connection of its own, even where another one has the same address.

        Args:
            address: one of the addresses; empty for the first.
            options: gRPC's, over those that this makes.

        Raises:
            SetupError: a file of the TLS settings cannot be read.
        """
        target = self._target(address)
        given = self._options(target, options)
        if self.secure:
            return grpc.secure_channel(target, self._credentials(), given)
        return grpc.insecure_channel(target, given)

    def open_async_channel(self, address: str = "", options: tuple[Option, ...] = ()) -> grpc.aio.Channel:
        """Return the same for asyncio; see `open_channel`."""
        target = self._target(address)
        given = self._options(target, options)
        if self.secure:
            return grpc.aio.secure_channel(target, self._credentials(), given)
        return grpc.aio.insecure_channel(target, given)

    def _target(self, address: str) -> str:
        return address or self.addresses[0]

    def _options(self, target: str, given: tuple[Option, ...]) -> list[Option]:
        options: dict[str, Any] = {
            "grpc.max_send_message_length": self.max_message_bytes,
            "grpc.max_receive_message_length": self.max_message_bytes,
            "grpc.enable_retries": 0,  # who opens the channel decides
            "grpc.use_local_subchannel_pool": 1,  # or gRPC makes one connection of equal channels
            "grpc.min_reconnect_backoff_ms": _CONNECT_MS,
            "grpc.initial_reconnect_backoff_ms": _FIRST_RECONNECT_MS,
            "grpc.max_reconnect_backoff_ms": _LONGEST_RECONNECT_MS,
            "grpc.dns_min_time_between_resolutions_ms": _RESOLVE_AGAIN_MS,
        }
        if is_here(target):
            options["grpc.enable_http_proxy"] = 0  # a proxy that the environment names would be given the token too
        if self.keepalive:
            options["grpc.keepalive_time_ms"] = int(self.keepalive * 1000)
            options["grpc.keepalive_timeout_ms"] = 5000
        return list((options | dict(given)).items())

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.tls_ca, "certificate authorities") if self.tls_ca else None,
            private_key=_read(self.tls_key, "private key") if self.tls_key else None,
            certificate_chain=_read(self.tls_certificate, "certificate") if self.tls_certificate else None,
        )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"the {what} file {path} cannot be read: {error.strerror}") from None


def _check(address: str) -> None:
    """Refuse what gRPC would take all the same: it would ask port 443, or look for a host called "http"."""
    said = _HOST_AND_PORT.fullmatch(address)
    if said is None and not _OTHER.fullmatch(address):
        raise SetupError(f"address {address!r}: must be host:port, such as localhost:8001, or dns:///host:port")
    if said and not 0 < int(said["port"]) <= _LARGEST_PORT:
        raise SetupError(f"address {address!r}: its port must be from 1 to {_LARGEST_PORT}")


def is_here(address: str) -> bool:
    """Return whether an address never leaves this machine."""
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if address.startswith(("unix:", "unix-abstract:")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
