"""Closed loop: so many callers, each asking again as soon as it is answered; in a process of its own."""

import asyncio
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import grpc
import grpc.aio
from hdrh.histogram import HdrHistogram

_LONGEST = 60_000_000
"""Microseconds; longer latencies count as this."""
_DIGITS = 3
_CALLERS_A_CHANNEL = 8
"""A channel sticks to one server process and one connection; more callers share more channels."""
_MESSAGE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    Attributes:
        address: host:port.
        method: full path of a method, unary or bidirectional.
        request: bytes of the message, the same each time.
        concurrency: calls under way at once; with `stream`, messages under way on all streams together.
        seconds: how long is measured, after `warm_up` seconds that are not.
        deadline: of each call, in seconds; None for none.
        kind: unary calls, or messages of streams that stay open.
        core: processor that the load's process is pinned to; None for any.
    """

    address: str
    method: str
    request: bytes
    concurrency: int
    seconds: float
    warm_up: float = 0.5
    deadline: float | None = None
    kind: Literal["unary", "stream"] = "unary"
    core: int | None = None


@dataclass(slots=True)
class Outcome:
    """What came of a load: calls answered, failed ones by status, latencies in microseconds, own CPU seconds."""

    seconds: float = 0.0
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0
    latencies: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, _LONGEST, _DIGITS))

    @property
    def rate(self) -> float:
        """Answered calls a second."""
        return self.answered / self.seconds

    def milliseconds(self, percentile: float) -> float:
        """Return the latency that so many percent of the answered calls did not exceed."""
        return float(self.latencies.get_value_at_percentile(percentile)) / 1000


def run(load: Load) -> Outcome:
    """Put the load on a server from a process of its own and return what came of it."""
    context = multiprocessing.get_context("spawn")  # gRPC and fork do not go together
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_process, args=(load, there))
    process.start()
    there.close()
    try:
        answered, failed, seconds, cpu_seconds, encoded = here.recv()
    except EOFError:
        raise RuntimeError("the load's process ended without a result") from None
    finally:
        process.join()
    outcome = Outcome(seconds, answered, Counter(failed), cpu_seconds)
    outcome.latencies.decode_and_add(encoded)
    return outcome


def _process(load: Load, there: Connection) -> None:
    if load.core is not None:
        os.sched_setaffinity(0, {load.core})
    outcome = asyncio.run(_Callers(load).run())
    there.send(
        (outcome.answered, dict(outcome.failed), outcome.seconds, outcome.cpu_seconds, outcome.latencies.encode())
    )


class _Callers:
    """The callers of one load, on one event loop."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._outcome = Outcome()
        self._measuring = False
        self._stopped = False

    async def run(self) -> Outcome:
        """Warm up, measure, stop."""
        load = self._load
        count = -(-load.concurrency // _CALLERS_A_CHANNEL)
        async with _channels(load.address, count) as channels:
            caller = self._call if load.kind == "unary" else self._stream
            if load.kind == "unary":
                tasks = [asyncio.create_task(caller(channels[n % count], 1)) for n in range(load.concurrency)]
            else:
                share = [len(range(n, load.concurrency, count)) for n in range(count)]
                tasks = [asyncio.create_task(caller(channel, n)) for channel, n in zip(channels, share, strict=True)]
            await asyncio.sleep(load.warm_up)
            self._measuring = True
            started, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(load.seconds)
            self._measuring = False
            self._outcome.seconds = time.perf_counter() - started
            self._outcome.cpu_seconds = time.process_time() - cpu
            self._stopped = True
            await asyncio.gather(*tasks)
        return self._outcome

    async def _call(self, channel: grpc.aio.Channel, _: int) -> None:
        method: Any = channel.unary_unary(self._load.method, request_serializer=None, response_deserializer=None)
        request, deadline = self._load.request, self._load.deadline
        while not self._stopped:
            started = time.perf_counter()
            try:
                await method(request, timeout=deadline)
            except grpc.aio.AioRpcError as error:
                self._fail(error.code().name)
            else:
                self._answer(started)

    async def _stream(self, channel: grpc.aio.Channel, window: int) -> None:
        """Keep `window` messages under way on one stream; answers are taken in order, since all messages are alike."""
        method: Any = channel.stream_stream(self._load.method, request_serializer=None, response_deserializer=None)
        call = method(None)
        sent = [0.0] * window
        for slot in range(window):
            sent[slot] = time.perf_counter()
            await call.write(self._load.request)
        slot = 0
        while not self._stopped:
            if await call.read() is grpc.aio.EOF:
                self._fail((await call.code()).name)
                return
            self._answer(sent[slot])
            sent[slot] = time.perf_counter()
            slot = (slot + 1) % window
            await call.write(self._load.request)
        call.cancel()

    def _answer(self, started: float) -> None:
        if self._measuring:
            self._outcome.answered += 1
            self._outcome.latencies.record_value(min(_LONGEST, int((time.perf_counter() - started) * 1e6)))

    def _fail(self, status: str) -> None:
        if self._measuring:
            self._outcome.failed[status] += 1


@asynccontextmanager
async def _channels(address: str, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Give channels with arguments that differ, so that gRPC does not make one connection of them."""
    options = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    channels = [grpc.aio.insecure_channel(address, [*options, ("saccade.channel", n)]) for n in range(count)]
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close(None)
