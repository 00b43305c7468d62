"""The client's asyncio twin."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from ..connection import Connection
from ..errors import Cancelled
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .answers import Answer, ModelEntry, Streamed, answer_of, entries_of, serving
from .attempts import CLOSED
from .base import CHECK, CLASSIFY, LIST_MODELS, Base, Method, is_serving
from .exchange import WINDOW, Exchange
from .failures import of_call
from .pictures import Choice, Picture, reads_files, serialized
from .stream_asynchronous import Stream


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods, results and errors; make and use it in one event loop."""

    def __init__(
        self, *addresses: str, connection: Connection | None = None, connections: int = 1, timeout: float = 10.0
    ) -> None:
        self._base: Base[grpc.aio.Channel] = Base(
            addresses, connection, connections, timeout, Connection.open_async_channel
        )
        self._closing = asyncio.Event()
        self._streams: set[Stream] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls under way and open streams end with Cancelled."""
        self._base.pool.closed = True
        self._closing.set()
        for stream in list(self._streams):
            stream.close()
        for link in self._base.pool.links:
            await link.channel.close()

    async def classify(
        self,
        *pictures: Picture | Sequence[Picture],
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> Answer:
        """Return the most probable categories of each picture; see `Client.classify`."""
        choice = Choice(model, str(version), top_k)
        request = (
            await asyncio.to_thread(choice.request, pictures) if reads_files(pictures) else choice.request(pictures)
        )
        raw = serialized(request, self._base.connection.max_message_bytes)
        return answer_of(await self._call(CLASSIFY, raw, timeout))

    def stream(
        self,
        pictures: Iterable[Picture | Sequence[Picture]] | AsyncIterable[Picture | Sequence[Picture]],
        *,
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        timeout: float | None = None,
        window: int = WINDOW,
        ordered: bool = True,
    ) -> AsyncIterator[Streamed]:
        """Classify many pictures on one stream; see `Client.stream`. The iterable is read by a task of its own."""
        seconds = self._base.seconds(timeout)
        exchange = Exchange(self._base.pool, self._base.connection, seconds, ordered=ordered)
        choice = Choice(model, str(version), top_k)
        stream = Stream(exchange, choice, self._base.connection, window=window, streams=self._streams)
        return stream.run(pictures)

    async def models(self, *, timeout: float | None = None) -> list[ModelEntry]:
        """Return every version that the server knows, by name, the highest first."""
        return entries_of(await self._call(LIST_MODELS, pb.ListModelsRequest().SerializeToString(), timeout))

    async def model(self, name: str = "", version: str | int = "", *, timeout: float | None = None) -> ModelEntry:
        """Return the version that answers requests for this model and version now; see `Client.model`."""
        return serving(await self.models(timeout=timeout), name, str(version))

    async def ready(self, service: str = "", *, timeout: float = 1.0) -> bool:
        """Return whether a server says SERVING of a service; see `Client.ready`."""
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        seconds, metadata = self._base.seconds(timeout), self._base.connection.metadata()
        calls = [
            self._base.method(link, CHECK)(request, timeout=seconds, metadata=metadata)
            for link in self._base.one_link_each()
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return any(is_serving(answer) for answer in answers if not isinstance(answer, BaseException))

    async def _call(self, method: Method, raw: bytes, timeout: float | None) -> Any:  # noqa: ANN401
        """Call until it is answered, fails for good, or the deadline passes."""
        metadata = self._base.connection.metadata()
        attempts = self._base.attempts(timeout)
        while True:
            if attempts.wait:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), attempts.wait)
            send = self._base.method(attempts.link, method)
            try:
                reply = await send(raw, timeout=attempts.remaining(), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                failure = of_call(error, attempts.link.address)
            except grpc.aio.UsageError:  # gRPC's word for a channel that is closed
                if not self._base.pool.closed:
                    raise
                raise Cancelled(CLOSED) from None
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._base.pool.closed and not (task and task.cancelling()):
                    raise Cancelled("the client was closed while the call was under way") from None
                raise
            else:
                attempts.worked()
                return reply
            attempts.failed(failure)
