"""What calls travel on: unary calls, streams that stay open, HTTP/1.1."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from functools import partial
from itertools import cycle
from typing import Any

import grpc
import grpc.aio

from service.connection import Connection
from service.load import framing
from service.load.plan import Kind, Load
from service.load.sender import OK, Ended, Wire

_MESSAGE_MB = 1024
_CONNECT = 5.0
"""Seconds to connect in; a server that is not there by then fails the calls instead."""


def wire(load: Load) -> Wire:
    """Return the wire that a load asks for."""
    kinds: dict[Kind, type[UnaryCalls] | type[Streams] | type[Http]] = {
        "unary": UnaryCalls,
        "stream": Streams,
        "http": Http,
    }
    return kinds[load.kind](load)


class _Channels:
    """The channels of one load, each with a connection of its own."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.all: list[grpc.aio.Channel] = []

    async def open(self) -> None:
        connection = self._load.connection or Connection(max_message_mb=_MESSAGE_MB)
        self.all = [connection.open_async_channel(self._load.address) for _ in range(self._load.connections)]
        await asyncio.wait([asyncio.create_task(channel.channel_ready()) for channel in self.all], timeout=_CONNECT)

    async def close(self) -> None:
        for channel in self.all:
            await channel.close(None)


class UnaryCalls:
    """A gRPC call a message, on each channel in turn."""

    def __init__(self, load: Load) -> None:
        self._load, self._channels = load, _Channels(load)
        self._requests = cycle(load.requests)
        self._metadata = load.metadata

    async def open(self) -> None:
        """Connect."""
        await self._channels.open()
        methods: list[Any] = [channel.unary_unary(self._load.method) for channel in self._channels.all]
        self._methods = cycle(methods)

    def send(self, timeout: float | None, ended: Ended) -> None:
        """Start a call."""
        call = next(self._methods)(next(self._requests), timeout=timeout, metadata=self._metadata)
        call.add_done_callback(partial(_tell, ended))

    async def close(self) -> None:
        """Cancel what is under way and disconnect."""
        await self._channels.close()


def _tell(ended: Ended, call: Any) -> None:  # noqa: ANN401 - gRPC's own
    status = _now(call.code())
    ended(status.name, "" if status is grpc.StatusCode.OK else _now(call.details()) or "")


def _now(known: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever it gives
    """Return what a coroutine gives that has nothing to wait for: a task a call cost a tenth of the client's CPU."""
    try:
        known.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a call that is done made its caller wait")


class Streams:
    """Messages of streams that stay open, one stream a channel; one that ends is opened anew."""

    def __init__(self, load: Load) -> None:
        self._load, self._channels = load, _Channels(load)
        self._requests = cycle(load.requests)
        self._streams: dict[int, _Stream] = {}
        self._count = 0

    async def open(self) -> None:
        """Connect."""
        await self._channels.open()

    def send(self, timeout: float | None, ended: Ended) -> None:
        """Put a message into the next stream's queue: a server that takes none does not stop the schedule."""
        self._count += 1
        place = self._count % len(self._channels.all)
        stream = self._streams.get(place)
        if stream is None or stream.over:
            method: Any = self._channels.all[place].stream_stream(self._load.method)
            stream = self._streams[place] = _Stream(
                method(metadata=self._load.metadata), framing.BY_NAME[self._load.framing]
            )
        stream.send(str(self._count), next(self._requests), timeout, ended)

    async def close(self) -> None:
        """Cancel the streams and disconnect."""
        for stream in self._streams.values():
            stream.cancel()
        await self._channels.close()


class _Stream:
    def __init__(self, call: Any, frame: framing.Frame) -> None:  # noqa: ANN401 - gRPC's own
        self.over = False
        self._call, self._frame = call, frame
        self._under_way: dict[str, Ended] = {}
        self._waiting: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def send(self, number: str, request: bytes, timeout: float | None, ended: Ended) -> None:
        self._under_way[number] = ended
        self._waiting.append(self._frame.number(request, number, timeout))
        self._more.set()

    def cancel(self) -> None:
        self.over = True
        self._under_way.clear()
        self._call.cancel()
        for task in self._tasks:
            task.cancel()

    async def _write(self) -> None:
        try:
            while not self.over:
                await self._more.wait()
                self._more.clear()
                while self._waiting:
                    await self._call.write(self._waiting.popleft())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader learns of it too and tells

    async def _read(self) -> None:
        try:
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                number, status, detail = self._frame.read(answer)
                ended = self._under_way.pop(number or next(iter(self._under_way)), None)
                if ended is not None:
                    ended(status or OK, detail)
            status, detail = (await self._call.code()).name, await self._call.details()
        except grpc.aio.AioRpcError as error:
            status, detail = error.code().name, error.details() or ""
        self.over = True
        self._tasks[0].cancel()
        lost, self._under_way = self._under_way, {}
        for ended in lost.values():
            ended("UNAVAILABLE" if status == OK else status, detail or "the server ended the stream")


class Http:
    """POST requests over HTTP/1.1 connections that are kept; there are as many as calls under way."""

    def __init__(self, load: Load) -> None:
        self._host, _, port = load.address.rpartition(":")
        self._port = int(port)
        self._load = load
        self._requests = cycle([self._written(body) for body in load.requests])
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def _written(self, body: bytes) -> bytes:
        head = f"POST {self._load.method} HTTP/1.1\r\nHost: {self._load.address}\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Content-Type: {self._load.content_type}\r\n\r\n".encode() + body

    async def open(self) -> None:
        """Do nothing: connections are made as calls need them."""

    def send(self, timeout: float | None, ended: Ended) -> None:
        """Start a request."""
        task = asyncio.create_task(self._call(next(self._requests), timeout, ended))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what is under way and disconnect."""
        for task in self._tasks:
            task.cancel()
        for _, writer in self._free:
            writer.close()

    async def _call(self, request: bytes, timeout: float | None, ended: Ended) -> None:
        try:
            async with asyncio.timeout(timeout):
                code = await self._exchange(request)
        except TimeoutError:
            ended("DEADLINE_EXCEEDED", "no answer in time")
        except (OSError, EOFError, ValueError) as error:
            ended("UNAVAILABLE", str(error) or type(error).__name__)
        else:
            ended(OK if code == 200 else f"HTTP_{code}", "")

    async def _exchange(self, request: bytes) -> int:
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection(self._host, self._port)
        kept = False
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            lines = head.split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            if "chunked" in fields.get("transfer-encoding", ""):
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    await reader.readexactly(size + 2)
                await reader.readuntil(b"\r\n")
            else:
                await reader.readexactly(int(fields.get("content-length", "0")))
            kept = fields.get("connection", "") != "close"
            return int(lines[0].split(" ")[1])
        finally:
            if kept:
                self._free.append((reader, writer))
            else:
                writer.close()
