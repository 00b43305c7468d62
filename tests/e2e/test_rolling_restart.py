"""Servers that restart one after the other under the shipped client, as processes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service import image
from service.client import AsyncClient, Client
from tests.onnx_models import pictures
from tests.rolling import Callers, Servers

pytestmark = pytest.mark.timeout(300)  # processes that start, one after the other, on a machine that may be busy

PICTURE = image.encode_png(pictures(1)[0])


@pytest.fixture
def servers(repository: Path) -> Iterator[Servers]:
    """Return three servers of one small model; all are ended in the end."""
    started = Servers(3, repository)
    yield started
    started.close()


def restart_all(servers: Servers, callers: Callers) -> None:
    """Restart each server in turn; calls are answered before, between and after."""
    for number in range(3):
        callers.wait_for(50)
        servers.restart(number)
        callers.wait_for(50)


def test_no_call_fails(servers: Servers) -> None:
    """Three servers restart in turn under sixteen callers of one client: no call fails."""
    with Client(*servers.addresses) as client:
        callers = Callers(lambda: client.classify(PICTURE), 16)
        restart_all(servers, callers)
        assert not callers.stop().failed


def test_no_item_of_a_stream_is_lost(servers: Servers) -> None:
    """Three servers restart in turn under one stream: each item is answered once, in order."""
    over = threading.Event()

    def items() -> Iterator[bytes]:
        while not over.is_set():
            yield PICTURE

    with Client(*servers.addresses) as client:
        stream = client.stream(items())
        callers = Callers(lambda: next(stream).result(), 1)
        restart_all(servers, callers)
        tally = callers.stop()
        over.set()
        rest = list(stream)
    assert not tally.failed
    assert [item.index for item in rest] == list(range(tally.answered, tally.answered + len(rest)))
    assert all(item.answer for item in rest)


def test_no_call_of_the_asyncio_twin_fails(servers: Servers) -> None:
    """One server of three restarts under sixteen tasks and a stream of the asyncio twin: nothing fails."""

    async def main() -> int:
        async with AsyncClient(*servers.addresses) as client:
            restart = asyncio.create_task(asyncio.to_thread(servers.restart, 1))
            calls = 0

            async def call() -> None:
                nonlocal calls
                while not restart.done():
                    await client.classify(PICTURE)
                    calls += 1

            async def stream() -> None:
                async def items() -> AsyncIterator[bytes]:
                    while not restart.done():
                        yield PICTURE

                async for item in client.stream(items()):
                    item.result()

            await asyncio.gather(*(call() for _ in range(16)), stream(), restart)
            return calls

    assert asyncio.run(main()) > 0
