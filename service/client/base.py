"""What the client and its asyncio twin share: everything but the waiting."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from ..connection import Connection, Option
from ..errors import Cancelled, InvalidInput, SetupError
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .attempts import CLOSED, Attempts, ChannelType, Link, Pool
from .policy import SERVICE, options

MOST_CONNECTIONS = 256
LONGEST_TIMEOUT = 86_400.0
"""Seconds: every call has a deadline, so infinity is none; gRPC takes what it cannot count for one that has passed."""


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method: its path and the message that it answers with."""

    path: str
    reply: type[Message]


CLASSIFY = Method(f"/{SERVICE}/Classify", pb.ClassifyResponse)
LIST_MODELS = Method(f"/{SERVICE}/ListModels", pb.ListModelsResponse)
STREAM = f"/{SERVICE}/ClassifyStream"
CHECK = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)


def is_serving(reply: health_pb2.HealthCheckResponse) -> bool:
    """Return whether the answer of CHECK is SERVING."""
    return reply.status == health_pb2.HealthCheckResponse.SERVING


class Base(Generic[ChannelType]):
    """A client's connections and defaults.

    Args:
        addresses: of the servers; else those of `connection`.
        connection: how to reach them.
        connections: how many to each address.
        timeout: seconds for a call that says nothing else.
        opens: makes a channel.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        connection: Connection | None,
        connections: int,
        timeout: float,
        opens: Callable[[Connection, str, tuple[Option, ...]], ChannelType],
    ) -> None:
        if not addresses and connection is None:
            raise SetupError("a client needs at least one address, for example Client('localhost:8001')")
        if not 1 <= connections <= MOST_CONNECTIONS:
            raise SetupError(f"connections {connections}: must be from 1 to {MOST_CONNECTIONS}")
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise SetupError(f"timeout {timeout}: must be more than 0 and at most {LONGEST_TIMEOUT:,.0f} seconds")
        connection = connection or Connection(addresses)
        self.connection = replace(connection, addresses=addresses or connection.addresses)
        self.timeout = timeout
        # Address by address within each round, so that turns go from server to server.
        targets = self.connection.addresses * connections
        given = options(self.connection, len(targets))
        self.pool = Pool([Link(target, opens(self.connection, target, given)) for target in targets])

    def seconds(self, timeout: float | None) -> float:
        """Return the seconds of a call: its own, or the client's where it says None.

        Raises:
            InvalidInput: that is no number of seconds. One below 0 is: of a deadline that has passed.
        """
        seconds = self.timeout if timeout is None else timeout
        if math.isnan(seconds) or seconds > LONGEST_TIMEOUT:
            raise InvalidInput("timeout", f"is {seconds}; it must be at most {LONGEST_TIMEOUT:,.0f} seconds")
        return seconds

    def attempts(self, timeout: float | None) -> Attempts[ChannelType]:
        """Return the attempts of a new call."""
        return Attempts(self.pool, self.seconds(timeout))

    def one_link_each(self) -> list[Link[ChannelType]]:
        """Return one link to each address.

        Raises:
            Cancelled: the client is closed.
        """
        if self.pool.closed:
            raise Cancelled(CLOSED)
        return list({link.address: link for link in self.pool.links}.values())

    def method(self, link: Link[ChannelType], method: Method) -> Any:  # noqa: ANN401 - grpc's and grpc.aio's
        """Return what calls a unary method with the bytes of a request."""
        channel: Any = link.channel
        return channel.unary_unary(method.path, response_deserializer=method.reply.FromString)
