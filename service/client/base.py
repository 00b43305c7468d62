"""What the client and its asyncio twin share: everything but the waiting."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic

from google.protobuf.message import Message

from ..connection import Connection, Option
from ..errors import SetupError
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .attempts import Attempts, ChannelType, Link, Pool
from .policy import SERVICE, options

MOST_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method: its path and the message that it answers with."""

    path: str
    reply: type[Message]


CLASSIFY = Method(f"/{SERVICE}/Classify", pb.ClassifyResponse)
LIST_MODELS = Method(f"/{SERVICE}/ListModels", pb.ListModelsResponse)
STREAM = f"/{SERVICE}/ClassifyStream"
HEALTH = "/grpc.health.v1.Health/Check"


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
        if not timeout > 0:
            raise SetupError(f"timeout {timeout}: must be more than 0 seconds")
        connection = connection or Connection(addresses)
        self.connection = replace(connection, addresses=addresses or connection.addresses)
        self.timeout = timeout
        # Address by address within each round, so that turns go from server to server.
        targets = self.connection.addresses * connections
        given = options(self.connection, len(targets))
        self.pool = Pool([Link(target, opens(self.connection, target, given)) for target in targets])

    def attempts(self, timeout: float | None) -> Attempts[ChannelType]:
        """Return the attempts of a new call."""
        return Attempts(self.pool, self.timeout if timeout is None else timeout)

    def method(self, link: Link[ChannelType], method: Method) -> Any:  # noqa: ANN401 - grpc's and grpc.aio's
        """Return what calls a unary method with the bytes of a request."""
        channel: Any = link.channel
        return channel.unary_unary(method.path, response_deserializer=method.reply.FromString)
