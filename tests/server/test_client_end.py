"""How calls of the client end: at their deadline, always, and when the client is closed; threads and asyncio."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
import pytest

from service.client import AsyncClient, Client
from service.client.base import LONGEST_TIMEOUT
from service.errors import Cancelled, DeadlineExceeded, InvalidInput, SetupError, Unavailable
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.fake_classifier import FakeClassifier, HeldAnswer, Seen, failing, named
from tests.fakes import WAIT, Job

PICTURE = np.zeros((8, 8, 1), np.uint8)
LONG = 3 * WAIT
"""Seconds of a deadline that would fail the test if it were waited for."""


def stream(client: Client) -> Any:  # noqa: ANN401 - as what it stands beside
    """Classify one picture on a stream."""
    return next(client.stream([PICTURE])).result()


async def stream_async(client: AsyncClient) -> Any:  # noqa: ANN401 - likewise
    """Classify one picture on a stream of the twin."""
    [answer] = [item.result() async for item in client.stream([PICTURE])]
    return answer


CALLS: dict[str, Callable[[Client], Any]] = {
    "classify": lambda client: client.classify(PICTURE),
    "stream": stream,
    "models": lambda client: client.models(),
}
ASYNC_CALLS: dict[str, Callable[[AsyncClient], Awaitable[Any]]] = {
    "classify": lambda client: client.classify(PICTURE),
    "stream": stream_async,
    "models": lambda client: client.models(),
}


@pytest.fixture
def silent() -> Iterator[str]:
    """Return an address where connections are accepted and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("call", CALLS)
def test_a_silent_host(silent: str, call: str) -> None:
    """A host that accepts connections and says nothing costs a call its timeout, and no more."""
    with Client(silent, timeout=0.3) as client, pytest.raises((DeadlineExceeded, Unavailable)):
        Job(lambda: CALLS[call](client)).answer()


@pytest.mark.parametrize("call", ASYNC_CALLS)
def test_a_silent_host_of_the_twin(silent: str, call: str) -> None:
    """So for asyncio."""

    async def main() -> None:
        async with AsyncClient(silent, timeout=0.3) as client:
            with pytest.raises((DeadlineExceeded, Unavailable)):
                await asyncio.wait_for(asyncio.ensure_future(ASYNC_CALLS[call](client)), WAIT)

    asyncio.run(main())


def test_nobody_listens() -> None:
    """Where nothing listens an item of a stream fails with the reason, as a call does."""
    with Client("127.0.0.1:1", timeout=1.0) as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        stream(client)


def test_a_deadline_always() -> None:
    """The server is told a deadline of 10 s by every call that says nothing, also for each item of a stream."""
    with FakeClassifier(named("a")) as server, Client(server.address) as client:
        client.classify(PICTURE)
        list(client.stream([PICTURE]))
        client.classify(PICTURE, timeout=3)
    first, item, own = server.seen
    assert 0 < first.seconds <= 10.1  # gRPC rounds up
    assert 0 < item.request.timeout_ms <= 10_000
    assert 0 < own.seconds <= 3.1


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), LONGEST_TIMEOUT * 1.001])
def test_no_deadline_is_no_timeout(timeout: float) -> None:
    """What is no number of seconds is refused by name, and nothing is sent; gRPC takes it for a passed deadline."""
    with FakeClassifier(named("a")) as server, Client(server.address) as client:
        for call in (client.classify, client.stream):
            with pytest.raises(InvalidInput, match=r"timeout: is .*at most 86,400"):
                call([PICTURE], timeout=timeout)
        with pytest.raises(InvalidInput, match="timeout"):
            client.models(timeout=timeout)
        with pytest.raises(InvalidInput, match="timeout"):
            client.ready(timeout=timeout)
        with pytest.raises(SetupError, match="timeout"):
            Client(server.address, timeout=timeout)
        assert client.classify(PICTURE, timeout=LONGEST_TIMEOUT).model == "a"
        assert next(client.stream([PICTURE], timeout=LONGEST_TIMEOUT)).result().model == "a"
    assert len(server.seen) == 2


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_deadline_that_has_passed(seconds: float) -> None:
    """A timeout of nothing is a deadline that has passed; nothing is sent."""
    with FakeClassifier(named("a")) as server, Client(server.address) as client:
        with pytest.raises(DeadlineExceeded):
            client.classify(PICTURE, timeout=seconds)
        with pytest.raises(DeadlineExceeded):
            next(client.stream([PICTURE], timeout=seconds)).result()
    assert not server.seen


@pytest.mark.parametrize("call", ["classify", "stream"])
def test_closed_while_the_server_works(held_answer: HeldAnswer, call: str) -> None:
    """Closing the client ends a call that waits for its answer with Cancelled."""
    with FakeClassifier(held_answer) as server:
        client = Client(server.address, timeout=LONG)
        job = Job(lambda: CALLS[call](client))
        assert held_answer.began.wait(WAIT)
        client.close()
        with pytest.raises(Cancelled, match="closed"):
            job.answer()
        held_answer.gate.set()


@pytest.mark.parametrize("call", ["classify", "stream"])
def test_the_twin_closed_while_the_server_works(held_answer: HeldAnswer, call: str) -> None:
    """So for asyncio, and the task is not cancelled, which nobody asked for."""

    async def main() -> None:
        with FakeClassifier(held_answer) as server:
            client = AsyncClient(server.address, timeout=LONG)
            task = asyncio.ensure_future(ASYNC_CALLS[call](client))
            assert await asyncio.to_thread(held_answer.began.wait, WAIT)
            await client.close()
            with pytest.raises(Cancelled, match="closed"):
                await asyncio.wait_for(task, WAIT)
            held_answer.gate.set()

    asyncio.run(main())


def told_to_wait() -> tuple[FakeClassifier, threading.Event]:
    """Return a server that tells every call to come back after 40 s, and what says that it has told one."""
    told = threading.Event()
    refuse = failing(99, grpc.StatusCode.RESOURCE_EXHAUSTED, ("grpc-retry-pushback-ms", "40000"))

    def answer(seen: Seen, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        context.add_callback(told.set)
        return refuse(seen, context)

    return FakeClassifier(answer), told


def test_closed_while_it_waits_to_call_again() -> None:
    """Closing ends a call that waits for the time that the server gave, at once."""
    server, told = told_to_wait()
    with server:
        client = Client(server.address, timeout=LONG)
        job = Job(lambda: client.classify(PICTURE))
        assert told.wait(WAIT)
        client.close()
        with pytest.raises(Cancelled, match="closed"):
            job.answer()


def test_the_twin_closed_while_it_waits_to_call_again() -> None:
    """So for asyncio."""

    async def main() -> None:
        server, told = told_to_wait()
        with server:
            client = AsyncClient(server.address, timeout=LONG)
            task = asyncio.ensure_future(client.classify(PICTURE))
            assert await asyncio.to_thread(told.wait, WAIT)
            await client.close()
            with pytest.raises(Cancelled, match="closed"):
                await asyncio.wait_for(task, WAIT)

    asyncio.run(main())


class Quiet:
    """Items for a stream, none of which comes before the test has ended it."""

    def __init__(self) -> None:
        self.asked, self.end = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[Any]:
        self.asked.set()
        self.end.wait(LONG)
        yield from ()


def test_closed_while_a_stream_has_nothing_to_send() -> None:
    """Closing the client ends a stream whose iterable gives nothing, though it has no call that would end."""
    with FakeClassifier(named("a")) as server:
        client, quiet = Client(server.address), Quiet()
        job = Job(lambda: list(client.stream(quiet)))
        assert quiet.asked.wait(WAIT)
        client.close()
        with pytest.raises(Cancelled, match="closed"):
            job.answer()
        quiet.end.set()


def test_the_twin_closed_while_a_stream_has_nothing_to_send() -> None:
    """So for asyncio."""
    asked = asyncio.Event()

    async def quiet() -> AsyncIterator[Any]:
        asked.set()
        await asyncio.Event().wait()
        yield PICTURE

    async def take(client: AsyncClient) -> None:
        async for _ in client.stream(quiet()):
            pass

    async def main() -> None:
        with FakeClassifier(named("a")) as server:
            client = AsyncClient(server.address)
            task = asyncio.ensure_future(take(client))
            await asyncio.wait_for(asked.wait(), WAIT)
            await client.close()
            with pytest.raises(Cancelled, match="closed"):
                await asyncio.wait_for(task, WAIT)

    asyncio.run(main())


def test_a_stream_after_closing() -> None:
    """A stream of a closed client is Cancelled before anything is read for it."""
    client, quiet = Client("127.0.0.1:1"), Quiet()
    client.close()
    with pytest.raises(Cancelled, match="the client is closed"):
        next(client.stream(quiet))
    assert not quiet.asked.is_set()


def test_closed_under_many_callers() -> None:
    """Whatever sixteen callers are doing when the client is closed, they get answers or Cancelled, nothing else."""
    with FakeClassifier(named("a")) as server:
        client, ends = Client(server.address), [Future[BaseException]() for _ in range(16)]
        answered = threading.Semaphore(0)

        def call(end: Future[BaseException]) -> None:
            try:
                while True:
                    client.classify(PICTURE)
                    answered.release()
            except BaseException as error:  # noqa: BLE001 - to be looked at
                end.set_result(error)

        threads = [threading.Thread(target=call, args=[end], daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        for _ in range(64):
            assert answered.acquire(timeout=WAIT)
        client.close()
        assert {type(end.result(WAIT)) for end in ends} == {Cancelled}


def test_after_closing() -> None:
    """A closed client says so, whatever it is asked; closing again does nothing."""
    with FakeClassifier(named("a")) as server:
        client = Client(server.address)
        client.close()
        client.close()
        for call in (*CALLS.values(), Client.ready):
            with pytest.raises(Cancelled, match="the client is closed"):
                call(client)


def test_after_closing_the_twin() -> None:
    """So for asyncio."""

    async def main() -> None:
        with FakeClassifier(named("a")) as server:
            client = AsyncClient(server.address)
            await client.close()
            await client.close()
            for call in (*ASYNC_CALLS.values(), AsyncClient.ready):
                with pytest.raises(Cancelled, match="the client is closed"):
                    await call(client)

    asyncio.run(main())


def test_a_cancelled_task_ends_its_call(held_answer: HeldAnswer) -> None:
    """A task of the twin that is cancelled ends as cancelled, and the server learns that its caller left."""
    left = threading.Event()

    def answer(seen: Seen, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        context.add_callback(left.set)
        return held_answer(seen, context)

    async def main() -> None:
        with FakeClassifier(answer) as server:
            async with AsyncClient(server.address, timeout=LONG) as client:
                task = asyncio.ensure_future(client.classify(PICTURE))
                assert await asyncio.to_thread(held_answer.began.wait, WAIT)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await asyncio.to_thread(left.wait, WAIT)
                held_answer.gate.set()

    asyncio.run(main())
