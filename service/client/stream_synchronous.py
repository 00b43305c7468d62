"""One stream of the client for threads: a thread reads the iterable, one each open call, the caller does the rest."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import grpc

from ..connection import Connection
from ..errors import Cancelled, SaccadeError, SetupError, raising
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .answers import Streamed
from .base import STREAM
from .exchange import ENDED, Exchange, OpenCall
from .failures import of_call
from .pictures import Choice, Picture

Outbox = SimpleQueue[int | None]


class Stream:
    """Runs one exchange.

    Args:
        exchange: its state.
        choice: what is asked for each item.
        connection: how to reach the servers.
        window: most items that are read and not yet taken.
        streams: the client's that are open, for it to close; this one too while it runs.

    Raises:
        SetupError: the window is smaller than 1.
    """

    def __init__(
        self,
        exchange: Exchange[grpc.Channel],
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
        self._room = threading.Semaphore(window)
        self._inbox: SimpleQueue[Any] = SimpleQueue()  # what is to be done with the exchange, in the caller's thread
        self._calls: dict[OpenCall[grpc.Channel], tuple[Any, Outbox]] = {}  # gRPC's, and what is to be sent on it
        self._outbox: Outbox = SimpleQueue()  # of the call that is open and not left
        self._over = self._read_all = False
        self._failure: SaccadeError | None = None  # that ends the stream
        self._source_error: BaseException | None = None

    def run(self, pictures: Iterable[Picture | Sequence[Picture]]) -> Iterator[Streamed]:
        """Yield what each item gave."""
        self._streams.add(self)  # before it looks whether the client is closed, which looks here once it is
        try:
            self._exchange.begin()
            threading.Thread(target=self._feed, args=(iter(pictures),), name="saccade-stream", daemon=True).start()
            while self._failure is None:
                streamed = self._exchange.give()
                if streamed is not None:
                    self._room.release()
                    yield streamed
                if self._read_all and self._exchange.idle:
                    break
                self._drive(self._exchange.wait() if streamed is None else 0)
            for streamed in self._exchange.rest():
                yield streamed
            if self._failure is not None:
                raise self._failure
            if self._source_error is not None:
                raise self._source_error
        finally:
            self._end()

    def _feed(self, pictures: Iterator[Picture | Sequence[Picture]]) -> None:
        error: BaseException | None = None
        try:
            while self._room.acquire() and not self._over:
                try:
                    picture = next(pictures)
                except StopIteration:
                    break
                try:
                    request: pb.ClassifyRequest | SaccadeError = self._choice.request([picture])
                except SaccadeError as failure:
                    request = failure
                self._inbox.put(partial(self._exchange.take, request))
        except BaseException as raised:  # noqa: BLE001 - the caller's iterable; raised in the caller's thread
            error = raised
        self._inbox.put(partial(self._fed, error))

    def _fed(self, error: BaseException | None) -> None:
        self._read_all, self._source_error = True, error

    def close(self) -> None:
        """End it with Cancelled, also where no call is open that would end; from any thread."""
        self._inbox.put(raising(Cancelled(ENDED)))

    def _drive(self, seconds: float | None) -> None:
        """Wait for something to do, do all there is, and send what is due; keep the failure that ends the stream."""
        try:
            self._work(seconds)
            self._send()
        except SaccadeError as error:
            self._failure = error

    def _work(self, seconds: float | None) -> None:
        """Wait for something to do, and do all there is."""
        with suppress(Empty):
            self._inbox.get(timeout=seconds)()
            while True:
                self._inbox.get_nowait()()
        self._exchange.expire()

    def _send(self) -> None:
        call = self._exchange.call_to_open()
        if call is not None:
            self._outbox = self._open(call)
        for index in self._exchange.due():
            self._outbox.put(index)

    def _open(self, call: OpenCall[grpc.Channel]) -> Outbox:
        method: Any = call.link.channel.stream_stream(
            STREAM,
            request_serializer=pb.ClassifyRequest.SerializeToString,
            response_deserializer=pb.ClassifyStreamResponse.FromString,
        )
        outbox: Outbox = SimpleQueue()
        metadata = self._connection.metadata()
        try:
            opened = method(self._requests(call, outbox), metadata=metadata)
        except ValueError:  # gRPC's word for a channel that is closed, by another thread a moment ago
            self._exchange.lost(call, None)
            raise
        self._calls[call] = opened, outbox
        threading.Thread(target=self._read, args=(call, opened), name="saccade-stream-read", daemon=True).start()
        return outbox

    def _requests(self, call: OpenCall[grpc.Channel], outbox: Outbox) -> Iterator[pb.ClassifyRequest]:
        """Yield what to send as gRPC has room for it; in a thread of gRPC's."""
        while (index := outbox.get()) is not None:
            request = self._exchange.to_send(index)
            if request is not None:
                yield request
            else:
                self._inbox.put(partial(self._exchange.skipped, call, index))

    def _read(self, call: OpenCall[grpc.Channel], messages: Any) -> None:  # noqa: ANN401 - grpc's
        failure = None
        try:
            for message in messages:
                self._inbox.put(partial(self._receive, call, message))
        except grpc.RpcError as error:
            failure = of_call(error, call.link.address)  # type: ignore[arg-type]
        self._inbox.put(partial(self._lost, call, failure))

    def _receive(self, call: OpenCall[grpc.Channel], message: pb.ClassifyStreamResponse) -> None:
        if self._exchange.receive(call, message):
            self._close_outbox(call)

    def _lost(self, call: OpenCall[grpc.Channel], failure: SaccadeError | None) -> None:
        self._close_outbox(call)
        del self._calls[call]
        self._exchange.lost(call, failure)

    def _close_outbox(self, call: OpenCall[grpc.Channel]) -> None:
        """Send no more on a call, not what waits for that either."""
        _, outbox = self._calls[call]
        with suppress(Empty):
            while True:
                index = outbox.get_nowait()
                if index is not None:  # it was closed before
                    self._exchange.skipped(call, index)
        outbox.put(None)

    def _end(self) -> None:
        """Close the call; if answers are outstanding, nobody wants them."""
        self._streams.discard(self)
        self._over = True
        self._room.release()
        for opened, outbox in self._calls.values():
            outbox.put(None)
            opened.cancel()
