"""Streams of the client on channels that the test holds; threads and asyncio."""

import asyncio
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from grpc.aio import AioRpcError, Metadata

from service.client import Streamed
from service.client.pictures import Choice
from service.client.stream_asynchronous import Stream as AsyncStream
from service.client.stream_synchronous import Stream
from service.connection import Connection
from service.errors import NotAllowed
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.fake_channel import SECONDS, Clock, FakeAsyncChannel, FakeChannel, Refused, WatchedExchange, answer, refusal
from tests.fakes import WAIT, Job

PICTURE = np.zeros((8, 8, 1), np.uint8)
NOTHING = pb.ClassifyStreamResponse()
"""A message that answers no item, so that a stream looks at its clock."""


def stream(exchange: WatchedExchange) -> Stream:
    """Return a stream."""
    return Stream(exchange, Choice("", "", 0), Connection(("host:1",)), window=8, streams=set())


def twin(exchange: WatchedExchange) -> AsyncStream:
    """Return a stream of the twin."""
    return AsyncStream(exchange, Choice("", "", 0), Connection(("host:1",)), window=8, streams=set())


async def taken(running: AsyncStream, count: int, got: list[Streamed] | None = None) -> list[Streamed]:
    """Return what a stream of so many pictures gives; `got` has it also if the stream fails."""
    got = [] if got is None else got
    async for item in running.run([PICTURE] * count):
        got.append(item)
    return got


def test_what_is_sent_is_decided_when_it_is_sent() -> None:
    """What gRPC takes late is told the time that is left, and what expires before that is never sent."""
    clock, channel, given = Clock(), FakeChannel(), SimpleQueue[int]()
    running = stream(WatchedExchange([channel], clock, given.put))
    job = Job(lambda: list(running.run([PICTURE] * 3)))
    call = channel.call()
    for _ in range(3):
        given.get(timeout=WAIT)
    sent = [next(call.requests).timeout_ms]
    clock.now = 4.0
    sent.append(next(call.requests).timeout_ms)
    clock.now = SECONDS
    call.say(NOTHING)
    job.answer()
    sent += [request.timeout_ms for request in call.requests]
    assert sent == [10_000, 6_000]


def test_what_is_sent_by_the_twin_is_decided_when_it_is_sent() -> None:
    """So for asyncio."""

    async def main() -> None:
        clock, channel, given = Clock(), FakeAsyncChannel(), asyncio.Queue[int]()
        running = twin(WatchedExchange([channel], clock, given.put_nowait))
        task = asyncio.ensure_future(taken(running, 4))
        call = await channel.call()
        for _ in range(4):
            await asyncio.wait_for(given.get(), WAIT)
        first = await call.sent()
        clock.now = 4.0
        call.make_room()
        second = await call.sent()
        clock.now = SECONDS
        call.make_room()
        call.say(NOTHING)
        await asyncio.wait_for(task, WAIT)
        assert [first.timeout_ms, second.timeout_ms] == [10_000, 6_000]
        assert call.nothing_sent()

    asyncio.run(main())


def test_a_call_that_is_left_ends() -> None:
    """On a call that is left nothing more is sent, not what waited for that either; what it answers still counts."""
    first, second, given = FakeChannel(), FakeChannel(), SimpleQueue[int]()
    running = stream(WatchedExchange([first, second], Clock(), given.put))
    job = Job(lambda: list(running.run([PICTURE] * 3)))
    call = first.call()
    for _ in range(3):
        given.get(timeout=WAIT)
    refused, kept = next(call.requests), next(call.requests)
    call.say(refusal(refused))
    other = second.call()
    assert list(call.requests) == []
    call.say(answer(kept))
    for request in (next(other.requests), next(other.requests)):
        other.say(answer(request))
    assert {item.index for item in job.answer() if item.answer} == {0, 1, 2}


def test_a_call_that_is_left_by_the_twin_ends() -> None:
    """So for asyncio."""

    async def main() -> None:
        first, second, given = FakeAsyncChannel(), FakeAsyncChannel(), asyncio.Queue[int]()
        running = twin(WatchedExchange([first, second], Clock(), given.put_nowait))
        task = asyncio.ensure_future(taken(running, 3))
        call = await first.call()
        for _ in range(3):
            await asyncio.wait_for(given.get(), WAIT)
        refused = await call.sent()
        call.make_room()
        kept = await call.sent()
        call.say(refusal(refused))
        other = await second.call()
        call.make_room()
        await asyncio.wait_for(call.done.wait(), WAIT)
        assert call.nothing_sent()
        call.say(answer(kept))
        other.make_room()
        for _ in range(2):
            other.say(answer(await other.sent()))
        assert {item.index for item in await asyncio.wait_for(task, WAIT) if item.answer} == {0, 1, 2}

    asyncio.run(main())


def test_what_was_answered_comes_before_what_ends_a_stream() -> None:
    """A stream that ends for good gives what was answered, and raises then."""
    channel, got = FakeChannel(), list[Streamed]()
    running = stream(WatchedExchange([channel], Clock(), ordered=True))
    job = Job(lambda: got.extend(running.run([PICTURE] * 2)))
    call = channel.call()
    next(call.requests)
    call.say(answer(next(call.requests)))
    call.say(Refused(grpc.StatusCode.PERMISSION_DENIED))
    with pytest.raises(NotAllowed):
        job.answer()
    assert [item.index for item in got] == [1]


def test_what_was_answered_comes_before_what_ends_a_stream_of_the_twin() -> None:
    """So for asyncio."""

    async def main() -> None:
        channel, got = FakeAsyncChannel(), list[Streamed]()
        running = twin(WatchedExchange([channel], Clock(), ordered=True))
        task = asyncio.ensure_future(taken(running, 2, got))
        call = await channel.call()
        call.make_room()
        await call.sent()
        call.say(answer(await call.sent()))
        call.say(AioRpcError(grpc.StatusCode.PERMISSION_DENIED, Metadata(), Metadata()))
        with pytest.raises(NotAllowed):
            await asyncio.wait_for(task, WAIT)
        assert [item.index for item in got] == [1]

    asyncio.run(main())


def test_what_is_to_be_repeated_goes_out_between_answers() -> None:
    """Of answers that came together the caller takes one at a time, and what is to be repeated is sent meanwhile."""
    first, second = FakeChannel(), FakeChannel()
    items = stream(WatchedExchange([first, second], Clock(), ordered=True)).run([PICTURE] * 3)
    job = Job(lambda: next(items))
    call = first.call()
    sent = [next(call.requests) for _ in range(3)]
    call.say(answer(sent[1]))
    call.say(answer(sent[0]))
    job.answer()
    call.say(refusal(sent[2]))
    call.heard(3)
    next(items)
    assert next(second.call().requests).id == "2"


def test_what_the_twin_is_to_repeat_goes_out_between_answers() -> None:
    """So for asyncio."""

    async def main() -> None:
        first, second = FakeAsyncChannel(), FakeAsyncChannel()
        items = twin(WatchedExchange([first, second], Clock(), ordered=True)).run([PICTURE] * 3)
        task = asyncio.ensure_future(anext(items))
        call = await first.call()
        call.make_room(3)
        sent = [await call.sent() for _ in range(3)]
        call.say(answer(sent[1]))
        call.say(answer(sent[0]))
        await asyncio.wait_for(task, WAIT)
        call.say(refusal(sent[2]))
        await call.heard(3)
        await anext(items)
        assert (await (await second.call()).sent()).id == "2"

    asyncio.run(main())
