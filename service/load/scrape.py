"""The server's own view of a load: its metrics before and after."""

import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from service.connection import Connection, is_here

_LINE = re.compile(r"^(\w+)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SECONDS = 3.0

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class ServerView:
    """What the server counted between two looks.

    Attributes:
        stages: mean milliseconds of a call in decode, queue and inference.
        batch: mean pictures a batch.
        images: pictures classified.
        refused: calls refused, by reason.
        codes: calls by status.
        cpu_seconds: of the server's process, if it says so and is still the same: a start takes seconds of its own.
            One of several workers that starts anew counts.
        memory_mb: its resident memory at the end, if it says so.
    """

    stages: dict[str, float] = field(default_factory=dict)
    batch: float = 0.0
    images: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float | None = None
    memory_mb: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the view for a program."""
        return asdict(self)


def parse(text: str) -> Samples:
    """Return the samples of a page in Prometheus' text format."""
    found: Samples = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and not line.startswith("#"):
            name, labels, value = match.groups()
            with suppress(ValueError):  # any web page has lines of two words
                found[name, tuple(sorted(_LABEL.findall(labels or "")))] = float(value)
    return found


def context(connection: Connection) -> ssl.SSLContext | None:
    """Return the TLS with which metrics are read: that of the calls, as the server has one for both; None without.

    Raises:
        OSError: a file of it cannot be used.
    """
    if not connection.secure:
        return None
    made = ssl.create_default_context(cafile=connection.tls_ca)
    if connection.tls_certificate is not None:
        made.load_cert_chain(connection.tls_certificate, connection.tls_key)
    return made


def look(url: str, tls: ssl.SSLContext | None = None) -> Samples:
    """Return what a metrics endpoint says now.

    Args:
        url: http:// or https://.
        tls: of https://; None trusts the system's certificate authorities.

    Raises:
        OSError: it cannot be read; the text says why.
    """
    if not url.startswith(("http://", "https://")):
        raise OSError(f"{url} is neither http:// nor https://")
    try:
        with _opener(url, tls).open(url, timeout=_SECONDS) as page:
            return parse(page.read().decode("utf-8", "replace"))
    except urllib.error.URLError as error:
        raise OSError(_told(error.reason)) from None
    except http.client.HTTPException as error:
        raise OSError(f"it does not speak HTTP: {error!r}") from None


def _opener(url: str, tls: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Return what opens a page: through the environment's proxy, but for those of this machine, as calls to it go."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=tls)]
    if is_here(f"{urllib.parse.urlsplit(url).hostname}:0"):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _told(reason: object) -> str:
    """Return why, without the number that Python puts before it."""
    return reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)


def between(before: Samples, after: Samples) -> ServerView | None:
    """Return what happened between two looks; None where the endpoint is not this service's."""
    if not any(name.startswith("saccade_") for name, _ in after):
        return None

    def by(name: str, label: str) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for (sample, labels), value in after.items():
            if sample == name:
                then = before.get((sample, labels), 0.0)
                # A counter that fell began again at 0: the server was restarted meanwhile.
                sums[dict(labels).get(label, "")] += value - then if value >= then else value
        return sums

    seconds, counts = by("saccade_stage_seconds_sum", "stage"), by("saccade_stage_seconds_count", "stage")
    batches, pictures = by("saccade_batch_size_count", "-")[""], by("saccade_batch_size_sum", "-")[""]
    began, begins = (samples.get(("process_start_time_seconds", ())) for samples in (before, after))
    cpu = by("process_cpu_seconds_total", "-") if began == begins else None
    memory = after.get(("process_resident_memory_bytes", ()))
    return ServerView(
        stages={stage: 1000 * seconds[stage] / counts[stage] for stage in seconds if counts[stage]},
        batch=pictures / batches if batches else 0.0,
        images=round(by("saccade_images_total", "-")[""]),
        refused={reason: round(count) for reason, count in by("saccade_refused_total", "reason").items() if count},
        codes={code: round(count) for code, count in by("saccade_requests_total", "code").items() if count},
        cpu_seconds=cpu[""] if cpu else None,
        memory_mb=memory / 1e6 if memory else None,
    )
