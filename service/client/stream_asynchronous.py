"""One stream of the asyncio twin: a task reads the iterable, two serve each open call, the caller does the rest."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio

from ..connection import Connection
from ..errors import Cancelled, SaccadeError, SetupError, Unavailable, raising
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .answers import Streamed
from .base import STREAM
from .exchange import ENDED, Exchange, OpenCall
from .failures import of_call
from .pictures import Choice, Picture, reads_files

Outbox = asyncio.Queue[int | None]
Items = Iterable[Picture | Sequence[Picture]] | AsyncIterable[Picture | Sequence[Picture]]

_STATUS_LOST = "Internal error from Core"
"""What grpc.aio makes of the server's status, whatever that was, where it comes while a message is being written: so
for 17 of 150 streams that were refused at once. The next attempt learns more."""


class Stream:
    """Runs one exchange; see `Stream` of the client for threads."""

    def __init__(
        self,
        exchange: Exchange[grpc.aio.Channel],
        choice: Choice,
        connection: Connection,
        *,
        window: int,
        streams: set["Stream"],
    ) -> None:
        if window < 1:
            raise SetupError(f"window {window}: must be at least 1")
        self._exchange = exchange
        self._choice = choice
        self._connection = connection
        self._streams = streams
        self._room = asyncio.Semaphore(window)
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._calls: dict[OpenCall[grpc.aio.Channel], tuple[Any, Outbox]] = {}  # gRPC's, and what is to be sent on it
        self._outbox: Outbox = asyncio.Queue()  # of the call that is open and not left
        self._tasks: set[asyncio.Task[None]] = set()
        self._read_all = False
        self._failure: SaccadeError | None = None  # that ends the stream
        self._source_error: BaseException | None = None

    async def run(self, pictures: Items) -> AsyncIterator[Streamed]:
        """Yield what each item gave."""
        self._streams.add(self)
        try:
            self._exchange.begin()
            self._start(self._feed(pictures))
            while self._failure is None:
                streamed = self._exchange.give()
                if streamed is not None:
                    self._room.release()
                    yield streamed
                if self._read_all and self._exchange.idle:
                    break
                await self._drive(self._exchange.wait() if streamed is None else 0)
            for streamed in self._exchange.rest():
                yield streamed
            if self._failure is not None:
                raise self._failure
            if self._source_error is not None:
                raise self._source_error
        finally:
            await self._end()

    async def _feed(self, pictures: Items) -> None:
        error: BaseException | None = None
        try:
            source = aiter(pictures if isinstance(pictures, AsyncIterable) else _each(pictures))
            while await self._room.acquire():
                try:
                    picture = await anext(source)
                except StopAsyncIteration:
                    break
                await self._inbox.put(partial(self._exchange.take, await self._request(picture)))
        except BaseException as raised:  # the caller's iterable; raised where the answers are taken
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # this one, not a task that the iterable waited for
                raise
            error = raised
        await self._inbox.put(partial(self._fed, error))

    async def _request(self, picture: Picture | Sequence[Picture]) -> pb.ClassifyRequest | SaccadeError:
        try:
            if reads_files([picture]):
                return await asyncio.to_thread(self._choice.request, [picture])
            return self._choice.request([picture])
        except SaccadeError as error:
            return error

    def _fed(self, error: BaseException | None) -> None:
        self._read_all, self._source_error = True, error

    def close(self) -> None:
        """End it with Cancelled, also where no call is open that would end; in its event loop."""
        self._inbox.put_nowait(raising(Cancelled(ENDED)))

    async def _drive(self, seconds: float | None) -> None:
        """Wait for something to do, do all there is, and send what is due; keep the failure that ends the stream."""
        try:
            await self._work(seconds)
            self._send()
        except SaccadeError as error:
            self._failure = error

    async def _work(self, seconds: float | None) -> None:
        """Wait for something to do, and do all there is."""
        if seconds == 0:
            await asyncio.sleep(0)  # who reads and writes has a turn
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    do = await self._inbox.get()
                do()
        while not self._inbox.empty():
            self._inbox.get_nowait()()
        self._exchange.expire()

    def _send(self) -> None:
        call = self._exchange.call_to_open()
        if call is not None:
            self._outbox = self._open(call)
        for index in self._exchange.due():
            self._outbox.put_nowait(index)

    def _open(self, call: OpenCall[grpc.aio.Channel]) -> Outbox:
        method: Any = call.link.channel.stream_stream(
            STREAM,
            request_serializer=pb.ClassifyRequest.SerializeToString,
            response_deserializer=pb.ClassifyStreamResponse.FromString,
        )
        outbox: Outbox = asyncio.Queue()
        opened = method(metadata=self._connection.metadata())
        self._calls[call] = opened, outbox
        self._start(self._write(call, opened, outbox))
        self._start(self._read(call, opened))
        return outbox

    async def _write(self, call: OpenCall[grpc.aio.Channel], to: Any, outbox: Outbox) -> None:  # noqa: ANN401
        """Send as gRPC has room for it."""
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the call is over; who reads it says why
            while (index := await outbox.get()) is not None:
                request = self._exchange.to_send(index)
                if request is not None:
                    await to.write(request)
                else:
                    self._inbox.put_nowait(partial(self._exchange.skipped, call, index))
            await to.done_writing()

    async def _read(self, call: OpenCall[grpc.aio.Channel], messages: Any) -> None:  # noqa: ANN401 - grpc.aio's
        failure = None
        try:
            while (message := await messages.read()) is not grpc.aio.EOF:
                await self._inbox.put(partial(self._receive, call, message))
            if await messages.code() is not grpc.StatusCode.OK:
                failure = _failure(await _error(messages), call.link.address)
        except grpc.aio.AioRpcError as error:
            failure = _failure(error, call.link.address)
        except asyncio.CancelledError:  # of this task, or of a call whose channel was closed
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        await self._inbox.put(partial(self._lost, call, failure))

    def _receive(self, call: OpenCall[grpc.aio.Channel], message: pb.ClassifyStreamResponse) -> None:
        if self._exchange.receive(call, message):
            self._close_outbox(call)

    def _lost(self, call: OpenCall[grpc.aio.Channel], failure: SaccadeError | None) -> None:
        self._close_outbox(call)
        del self._calls[call]
        self._exchange.lost(call, failure)

    def _close_outbox(self, call: OpenCall[grpc.aio.Channel]) -> None:
        """Send no more on a call, not what waits for that either."""
        _, outbox = self._calls[call]
        while not outbox.empty():
            index = outbox.get_nowait()
            if index is not None:  # it was closed before
                self._exchange.skipped(call, index)
        outbox.put_nowait(None)

    def _start(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        """Close the call; if answers are outstanding, nobody wants them."""
        self._streams.discard(self)
        for opened, _ in self._calls.values():
            opened.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _error(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401 - grpc.aio's
    """Return what gRPC says of a stream that ended other than OK."""
    initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    return grpc.aio.AioRpcError(await call.code(), initial, trailing, await call.details())


def _failure(error: grpc.aio.AioRpcError, address: str) -> SaccadeError:
    if error.code() is grpc.StatusCode.INTERNAL and error.details() == _STATUS_LOST:
        return Unavailable(f"{address}: the stream ended while a message was being sent")
    return of_call(error, address)


async def _each(items: Iterable[Picture | Sequence[Picture]]) -> AsyncIterator[Picture | Sequence[Picture]]:
    for item in items:
        yield item
