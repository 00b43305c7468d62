"""What a load is: which bytes go where, how often, for how long."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from service.connection import Connection

Kind = Literal["unary", "stream", "http"]
Arrivals = Literal["poisson", "constant"]
Framing = Literal["plain", "saccade", "oip"]

_CALLERS_A_CHANNEL = 8
"""A channel sticks to one server process and one connection; more callers share more channels."""
_CHANNELS = 4
"""Of an open loop's process."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    Attributes:
        address: host:port.
        method: full path of a gRPC method, unary or bidirectional; of an HTTP load the path to POST to.
        request: bytes of the message; several are sent in turn.
        concurrency: closed loop: calls (on streams: messages) under way at once. Ignored where there is a rate.
        seconds: how long is measured, after `warm_up` seconds that are not.
        deadline: of each call, in seconds from when it is due; None for none.
        kind: unary calls, messages of streams that stay open, or HTTP/1.1 requests.
        core: processor that the load's process is pinned to; None for any.
        rate: open loop: calls a second, whether earlier ones are answered or not; None for a closed loop.
        arrivals: of an open loop: at random moments (poisson) or evenly.
        first: seconds after which the first of even arrivals is due: processes that share them take turns.
        seed: of the random moments.
        images: pictures a message, for images a second.
        framing: how a stream's answers are told apart; plain ones are taken in order.
        channels: connections of each process; 0 for as many as the load suggests.
        content_type: of an HTTP load's messages.
        connection: TLS and token; None for neither.
    """

    address: str
    method: str
    request: bytes | tuple[bytes, ...]
    concurrency: int
    seconds: float
    warm_up: float = 0.5
    deadline: float | None = None
    kind: Kind = "unary"
    core: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    first: float = 0.0
    seed: int = 0
    images: int = 1
    framing: Framing = "plain"
    channels: int = 0
    content_type: str = "application/octet-stream"
    connection: Connection | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What every call carries; the token is read once."""
        return (self.connection.metadata() or None) if self.connection else None

    @property
    def requests(self) -> tuple[bytes, ...]:
        """The messages, sent in turn."""
        return self.request if isinstance(self.request, tuple) else (self.request,)

    @property
    def connections(self) -> int:
        """How many channels one process opens."""
        if self.channels:
            return self.channels
        return _CHANNELS if self.rate is not None else -(-self.concurrency // _CALLERS_A_CHANNEL)

    def share(self, processes: int) -> list["Load"]:
        """Divide the load among processes; a closed loop with fewer callers than processes uses fewer."""
        if self.rate is not None:
            return [
                replace(self, rate=self.rate / processes, first=number / self.rate, seed=self.seed * 1000 + number)
                for number in range(processes)
            ]
        shares = [len(range(number, self.concurrency, processes)) for number in range(processes)]
        return [replace(self, concurrency=share) for share in shares if share]

    def moments(self) -> Iterator[float]:
        """Yield the seconds after the start at which calls of an open loop are due, without end."""
        rate = self.rate or 0.0
        if self.arrivals == "constant":
            yield from (self.first + number / rate for number in count())
        numbers, moment = random.Random(self.seed), 0.0  # noqa: S311 - no secret
        while True:
            moment += numbers.expovariate(rate)
            yield moment
