"""Channels of gRPC's, for threads and for asyncio, on which nothing is sent but what the test takes from them."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Self

import grpc
import grpc.aio
from google.rpc import code_pb2, status_pb2

from service.client.attempts import Link, Pool
from service.client.exchange import Exchange
from service.connection import Connection
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.fakes import WAIT

SECONDS = 10.0
"""Of each item."""
UNAVAILABLE = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="not here")
Said = pb.ClassifyStreamResponse | BaseException | None
"""A message, an error that the call ends with, or None: it ends well."""


def answer(request: pb.ClassifyRequest) -> pb.ClassifyStreamResponse:
    """Return the answer to an item of a stream."""
    return pb.ClassifyStreamResponse(id=request.id, response=pb.ClassifyResponse())


def refusal(request: pb.ClassifyRequest) -> pb.ClassifyStreamResponse:
    """Return the message that another server is to be asked for an item."""
    return pb.ClassifyStreamResponse(id=request.id, error=UNAVAILABLE)


class Clock:
    """Says what time the test wants."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


class WatchedExchange(Exchange[Any]):
    """An exchange on channels, which says what it gives to calls.

    Args:
        channels: where its links lead.
        clock: its own.
        given: told the index of each item that is put into an outbox.
        ordered: as an exchange's.
    """

    def __init__(
        self,
        channels: Sequence[Any],
        clock: Clock,
        given: Callable[[int], object] = lambda _: None,
        *,
        ordered: bool = False,
    ) -> None:
        connection = Connection(tuple(f"host:{number}" for number, _ in enumerate(channels, 1)))
        links = [Link(address, channel) for address, channel in zip(connection.addresses, channels, strict=True)]
        self._given_to_call = given
        self.pool = Pool(links)
        super().__init__(self.pool, connection, SECONDS, ordered=ordered, clock=clock)

    def due(self) -> list[int]:
        """Return what is due, and say it."""
        indices = super().due()
        for index in indices:
            self._given_to_call(index)
        return indices


class Refused(grpc.RpcError):
    """How a call ends that has no answer."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        """Return it."""
        return self._code

    def details(self) -> str:
        """Return a text."""
        return "as the test wants it"

    def trailing_metadata(self) -> tuple[()]:
        """Return none."""
        return ()


class FakeCall:
    """One call of a stream for threads: the test takes what is sent, and says what comes.

    Args:
        requests: what the client would send.
    """

    def __init__(self, requests: Iterator[pb.ClassifyRequest]) -> None:
        self.requests = requests
        self._began, self._listening = False, threading.Semaphore(0)
        self._said = SimpleQueue[Said]()

    def say(self, said: Said) -> None:
        """Let the server say something."""
        self._said.put(said)

    def heard(self, count: int) -> None:
        """Return when so many messages were taken up, since the last time."""
        for _ in range(count):
            assert self._listening.acquire(timeout=WAIT)

    def cancel(self) -> None:
        """End it, as the client does."""
        self._said.put(Refused(grpc.StatusCode.CANCELLED))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pb.ClassifyStreamResponse:
        if self._began:
            self._listening.release()
        self._began = True
        said = self._said.get()
        if isinstance(said, BaseException):
            raise said
        if said is None:
            raise StopIteration
        return said


class FakeChannel:
    """Opens calls for threads."""

    def __init__(self) -> None:
        self._calls = SimpleQueue[FakeCall]()

    def stream_stream(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - as grpc's
        """Return what opens a call."""
        return self._open

    def _open(self, requests: Iterator[pb.ClassifyRequest], metadata: object) -> FakeCall:
        call = FakeCall(requests)
        self._calls.put(call)
        return call

    def call(self) -> FakeCall:
        """Return the next call, as soon as it is open."""
        return self._calls.get(timeout=WAIT)


class FakeAsyncCall:
    """One call of a stream of the twin; see FakeCall."""

    def __init__(self) -> None:
        self.done = asyncio.Event()  # no more will be sent
        self._room = asyncio.Semaphore(0)
        self._sent = asyncio.Queue[pb.ClassifyRequest]()
        self._said = asyncio.Queue[Said]()
        self._began, self._listening = False, asyncio.Semaphore(0)

    def say(self, said: Said) -> None:
        """Let the server say something."""
        self._said.put_nowait(said)

    async def heard(self, count: int) -> None:
        """Return when so many messages were taken up, since the last time."""
        for _ in range(count):
            await asyncio.wait_for(self._listening.acquire(), WAIT)

    def make_room(self, count: int = 1) -> None:
        """Let so many more be sent, after the first."""
        for _ in range(count):
            self._room.release()

    async def sent(self) -> pb.ClassifyRequest:
        """Return what is sent next."""
        return await asyncio.wait_for(self._sent.get(), WAIT)

    def nothing_sent(self) -> bool:
        """Return whether no more was sent than the test took."""
        return self._sent.empty()

    async def write(self, request: pb.ClassifyRequest) -> None:
        """Send, and wait for room for the next."""
        self._sent.put_nowait(request)
        await self._room.acquire()

    async def done_writing(self) -> None:
        """Send no more."""
        self.done.set()

    async def read(self) -> Any:  # noqa: ANN401 - as grpc.aio's
        """Return what the server says."""
        if self._began:
            self._listening.release()
        self._began = True
        said = await self._said.get()
        if isinstance(said, BaseException):
            raise said
        return grpc.aio.EOF if said is None else said

    async def code(self) -> grpc.StatusCode:
        """Return how it ended where no error was raised."""
        return grpc.StatusCode.OK

    def cancel(self) -> None:
        """End it, as the client does."""


class FakeAsyncChannel:
    """Opens calls for asyncio."""

    def __init__(self) -> None:
        self._calls = asyncio.Queue[FakeAsyncCall]()

    def stream_stream(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - as grpc.aio's
        """Return what opens a call."""
        return self._open

    def _open(self, metadata: object) -> FakeAsyncCall:
        call = FakeAsyncCall()
        self._calls.put_nowait(call)
        return call

    async def call(self) -> FakeAsyncCall:
        """Return the next call, as soon as it is open."""
        return await asyncio.wait_for(self._calls.get(), WAIT)
