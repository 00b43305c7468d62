"""Streams of the client: how far they read ahead, how they end; threads and asyncio."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from service.client import AsyncClient, Client, Streamed
from service.errors import SaccadeError
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.fake_classifier import FakeClassifier, HeldAnswer, Seen, named
from tests.fakes import WAIT, Job

PICTURE = np.zeros((8, 8, 1), np.uint8)
ITEMS = 200


class Source:
    """Items for a stream, and how far ahead of what was taken from it each was read.

    Args:
        window: of the stream.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self.taken = 0
        self.ahead: list[int] = []
        self.full = threading.Event()  # a window of items was read

    def __iter__(self) -> Iterator[Any]:
        for number in range(1, ITEMS + 1):
            self.ahead.append(number - self.taken)
            if number == self._window:
                self.full.set()
            yield PICTURE

    def check(self) -> None:
        """All was read, a whole window ahead and never more."""
        assert self.taken == len(self.ahead) == ITEMS
        # One more: who is handed an answer counts it a moment after the stream did.
        assert self._window <= max(self.ahead) <= self._window + 1


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("window", [1, 7])
def test_a_stream_reads_no_further_than_its_window(held_answer: HeldAnswer, window: int, *, ordered: bool) -> None:
    """While no answer comes a window of items is read; of 200 none is read further ahead of what was taken."""
    source = Source(window)
    with FakeClassifier(held_answer) as server, Client(server.address) as client:

        def take() -> None:
            for item in client.stream(source, window=window, ordered=ordered):
                source.taken += 1
                item.result()

        job = Job(take)
        assert source.full.wait(WAIT)
        held_answer.gate.set()
        job.answer()
    source.check()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("window", [1, 7])
def test_a_stream_of_the_twin_reads_no_further(held_answer: HeldAnswer, window: int, *, ordered: bool) -> None:
    """So for asyncio, whose iterable is read by a task."""
    source = Source(window)

    async def items() -> AsyncIterator[Any]:
        for item in source:
            yield item

    async def open_the_gate() -> None:
        assert await asyncio.to_thread(source.full.wait, WAIT)
        held_answer.gate.set()

    async def main() -> None:
        with FakeClassifier(held_answer) as server:
            async with AsyncClient(server.address) as client:
                opener = asyncio.create_task(open_the_gate())
                async for item in client.stream(items(), window=window, ordered=ordered):
                    source.taken += 1
                    item.result()
                await opener

    asyncio.run(main())
    source.check()


def test_a_stream_of_the_twin_that_ends_while_it_writes() -> None:
    """The status of a stream that ends while a message is written is lost in grpc.aio; its items are sent again."""

    def answer(seen: Seen, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        if seen.number % 3 == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return pb.ClassifyResponse()

    async def main() -> None:
        with FakeClassifier(answer) as server:
            for _ in range(30):
                async with AsyncClient(server.address) as client:
                    assert all([item.answer async for item in client.stream([PICTURE] * 2)])

    asyncio.run(main())


def test_a_stream_that_is_left() -> None:
    """Leaving a stream before its end ends its call: the server learns that the caller left, and no thread remains."""
    left = threading.Event()

    def answer(seen: Seen, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        context.add_callback(left.set)
        return pb.ClassifyResponse()

    with FakeClassifier(answer) as server, Client(server.address) as client:
        items: Any = client.stream(Source(7))
        next(items).result()
        items.close()
        assert left.wait(WAIT)
        for thread in threading.enumerate():
            if thread.name.startswith("saccade-stream"):
                thread.join(WAIT)
                assert not thread.is_alive()


def test_what_the_iterable_waits_for_is_cancelled() -> None:
    """An iterable that waited for a task that somebody cancelled ends the stream by that, and does not hang it."""

    async def main() -> None:
        other = asyncio.create_task(asyncio.sleep(WAIT))

        async def items() -> AsyncIterator[Any]:
            yield PICTURE
            other.cancel()
            await other

        with FakeClassifier(named("a")) as server:
            async with AsyncClient(server.address) as client, asyncio.timeout(WAIT) as limit:
                stream = client.stream(items())
                assert (await anext(stream)).answer
                with pytest.raises(asyncio.CancelledError):
                    await anext(stream)
            assert not limit.expired()

    asyncio.run(main())


def test_what_the_iterable_raises() -> None:
    """What the caller's iterable raises comes after the answers to what it gave before."""

    def items() -> Iterator[Any]:
        yield PICTURE
        yield "no such file"
        raise RuntimeError("mine")

    got: list[Streamed] = []
    with FakeClassifier(named("a")) as server, Client(server.address) as client:
        stream = client.stream(items())
        got += [next(stream), next(stream)]
        with pytest.raises(RuntimeError, match="mine"):
            next(stream)
    assert got[0].result().model == "a"
    with pytest.raises(SaccadeError, match="no such file cannot be read"):
        got[1].result()
