"""The client for threads."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2

from ..connection import Connection
from ..errors import Cancelled
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .answers import Answer, ModelEntry, Streamed, answer_of, entries_of, serving
from .attempts import CLOSED
from .base import CHECK, CLASSIFY, LIST_MODELS, Base, Method, is_serving
from .exchange import WINDOW, Exchange
from .failures import of_call
from .pictures import Choice, Picture, serialized
from .stream_synchronous import Stream


class Client:
    """Connections to one server, or to several that serve the same models; may be used from many threads.

    Calls go to the servers in turn. One that finds its server gone, starting or draining goes to the next; a refused
    one comes back when the server said so; both until the deadline. Classifying twice does no harm, so every call may
    be repeated.

    Args:
        addresses: `host:port`, one or more; else those of `connection`. `dns:///host:port` means every server that the
            name has a record of.
        connection: how to reach them: TLS, token, keepalive, largest message.
        connections: how many connections to each address, so that calls reach every worker of a server.
        timeout: seconds that a call may take, repeats included, where the call says nothing else.

    Raises:
        SetupError: the connection cannot be made as described.
    """

    def __init__(
        self, *addresses: str, connection: Connection | None = None, connections: int = 1, timeout: float = 10.0
    ) -> None:
        self._base: Base[grpc.Channel] = Base(addresses, connection, connections, timeout, Connection.open_channel)
        self._closing = threading.Event()
        self._streams: set[Stream] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls under way and open streams end with Cancelled."""
        self._base.pool.closed = True
        self._closing.set()
        for stream in list(self._streams):
            stream.close()
        for link in self._base.pool.links:
            link.channel.close()

    def classify(
        self,
        *pictures: Picture | Sequence[Picture],
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> Answer:
        """Return the most probable categories of each picture.

        Args:
            pictures: paths, bytes of picture files, uint8 arrays [height, width, 1 or 3], or lists of these.
            model: name; empty for the server's default.
            version: a whole number; empty for the newest.
            top_k: how many categories; 0 means 5.
            timeout: seconds; None for the client's own.

        Raises:
            InvalidInput, UnknownModel, Overloaded, Unavailable, DeadlineExceeded, InferenceFailed, Cancelled: see
                `errors`.
        """
        request = Choice(model, str(version), top_k).request(pictures)
        raw = serialized(request, self._base.connection.max_message_bytes)
        return answer_of(self._call(CLASSIFY, raw, timeout))

    def stream(
        self,
        pictures: Iterable[Picture | Sequence[Picture]],
        *,
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        timeout: float | None = None,
        window: int = WINDOW,
        ordered: bool = True,
    ) -> Iterator[Streamed]:
        """Classify many pictures on one stream, at about half of what a call costs the server.

        The iterable is read by a thread of its own, at most `window` items ahead of what was taken from here. A failure
        is its item's own. What a connection that breaks left unanswered is sent on another one. What the iterable
        raises is raised here, after the answers to what came before it.

        Args:
            pictures: each item is a picture, or a list of pictures that are answered together.
            model: name; empty for the server's default.
            version: a whole number; empty for the newest.
            top_k: how many categories; 0 means 5.
            timeout: seconds for each item from when the stream takes it from the iterable, as it does while answers are
                taken, its turn to be sent and repeats included; None for the client's own.
            window: most items that are read and not yet taken; 64 at a time, what servers work on, are sent.
            ordered: give the answers in the order of the iterable; else as they are ready, told apart by `index`.

        Raises:
            SaccadeError: no stream can be had, for a reason that repeating does not mend; after what was answered.
        """
        seconds = self._base.seconds(timeout)
        exchange = Exchange(self._base.pool, self._base.connection, seconds, ordered=ordered)
        choice = Choice(model, str(version), top_k)
        stream = Stream(exchange, choice, self._base.connection, window=window, streams=self._streams)
        return stream.run(pictures)

    def models(self, *, timeout: float | None = None) -> list[ModelEntry]:
        """Return every version that the server knows, by name, the highest first."""
        return entries_of(self._call(LIST_MODELS, pb.ListModelsRequest().SerializeToString(), timeout))

    def model(self, name: str = "", version: str | int = "", *, timeout: float | None = None) -> ModelEntry:
        """Return the version that answers requests for this model and version now, empty meaning what it means there.

        Raises:
            UnknownModel: none does.
        """
        return serving(self.models(timeout=timeout), name, str(version))

    def ready(self, service: str = "", *, timeout: float = 1.0) -> bool:
        """Return whether a server says SERVING of a service: "" for all of it, or a model's name.

        All addresses are asked at once; one that does not answer in time is not ready.
        """
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        seconds, metadata = self._base.seconds(timeout), self._base.connection.metadata()
        answers = [
            self._base.method(link, CHECK).future(request, timeout=seconds, metadata=metadata)
            for link in self._base.one_link_each()
        ]
        return any(is_serving(answer.result()) for answer in answers if answer.exception() is None)

    def _call(self, method: Method, raw: bytes, timeout: float | None) -> Any:  # noqa: ANN401 - method.reply
        """Call until it is answered, fails for good, or the deadline passes."""
        metadata = self._base.connection.metadata()
        attempts = self._base.attempts(timeout)
        while True:
            if attempts.wait:
                self._closing.wait(attempts.wait)
            send = self._base.method(attempts.link, method)
            try:
                reply = send(raw, timeout=attempts.remaining(), metadata=metadata)
            except grpc.RpcError as error:
                failure = of_call(error, attempts.link.address)  # type: ignore[arg-type]
            except ValueError:  # gRPC's word for a channel that is closed
                if not self._base.pool.closed:
                    raise
                raise Cancelled(CLOSED) from None
            else:
                attempts.worked()
                return reply
            attempts.failed(failure)
