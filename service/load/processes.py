"""Runs loads in processes of their own, so that what watches does not disturb the sending; adds up the outcomes."""

import asyncio
import multiprocessing
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self, cast

from service.errors import SaccadeError
from service.load import wires
from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.sender import Sample, Sender

_STOP = "stop"
_SAMPLE_SECONDS = 0.5
_LEAD = 0.05
"""Seconds between the word to begin and the beginning, so that all processes begin together."""

Watch = Callable[[Sample], None]


def run(load: Load, processes: int = 1) -> Outcome:
    """Put a load on a server from processes of its own and return what came of it."""
    with Loaders(processes) as loaders:
        return loaders.run(load)


class Loaders:
    """Processes that send loads, one load after the other.

    Args:
        processes: how many share each load.
    """

    def __init__(self, processes: int = 1) -> None:
        context = multiprocessing.get_context("spawn")  # gRPC and fork do not go together
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            with _ctrl_c_ignored():
                process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()  # they end when their pipe does
        for process in self._processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()

    def run(self, load: Load, watch: Watch | None = None) -> Outcome:
        """Run one load.

        Args:
            load: divided among the processes.
            watch: called with what came in, twice a second.

        Ctrl-C ends it with what was measured so far; the outcome says so. A second one is KeyboardInterrupt.

        Raises:
            SaccadeError: a process of the load died.
        """
        shares = load.share(len(self._pipes))
        pipes = self._pipes[: len(shares)]
        try:
            for pipe, share in zip(pipes, shares, strict=True):
                pipe.send(share)
            for pipe in pipes:
                pipe.recv()  # connected
            begin = time.monotonic() + _LEAD
            for pipe in pipes:
                pipe.send(begin)
            return _collected(pipes, watch)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise SaccadeError("a process of the load generator died") from None


def _collected(pipes: Sequence[Connection], watch: Watch | None) -> Outcome:
    """Return what came of a load, of an interrupted one too."""
    outcome, left = Outcome(), list(pipes)
    try:
        collect(outcome, left, watch)
    except KeyboardInterrupt:
        for pipe in left:
            pipe.send(_STOP)
        collect(outcome, left, None)
        outcome.interrupted = True
    return outcome


def collect(outcome: Outcome, left: list[Connection], watch: Watch | None) -> None:
    """Add up what processes send; `left` are those whose outcome is not in yet, also where Ctrl-C ends it early."""
    while left:
        for ready in wait(left):
            pipe = cast("Connection", ready)
            with _ctrl_c_held():
                message = pipe.recv()
                if isinstance(message, Outcome):
                    outcome.add(message)
                    left.remove(pipe)
            if watch is not None and isinstance(message, Sample):
                watch(message)


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Let a Ctrl-C that comes meanwhile come afterwards: a message that is half read would be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came.is_set():
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Let a process that starts here inherit that it ignores Ctrl-C, which a terminal sends to all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection) -> None:
    """Run the loads that come until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop, and takes what was measured
    sys.setswitchinterval(0.001)
    while True:
        try:
            load = pipe.recv()
            if load == _STOP:  # it crossed the outcome of the load that it was to stop
                continue
            with asyncio.Runner(loop_factory=None if load.kind == "http" else _loop) as runner:
                runner.run(_one(load, pipe))
        except (EOFError, OSError):
            return


def _loop() -> asyncio.AbstractEventLoop:
    """Return a loop on select, which waits to the microsecond; on epoll every wait is rounded up to a millisecond.

    select knows descriptors below 1024 only: gRPC keeps its own elsewhere, HTTP's many connections need epoll.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _one(load: Load, pipe: Connection) -> None:
    os.sched_setaffinity(0, {load.core} if load.core is not None else _ALL_CORES)
    loop = asyncio.get_running_loop()
    wire = wires.wire(load)
    await wire.open()
    pipe.send("connected")
    begin = await loop.run_in_executor(None, pipe.recv)
    sender = Sender(load, wire)
    task = asyncio.create_task(sender.run(begin))
    loop.add_reader(pipe.fileno(), _told, pipe, sender)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_SAMPLE_SECONDS)
            if not task.done():
                pipe.send(sender.sample())
        pipe.send(task.result())
    finally:
        loop.remove_reader(pipe.fileno())
        await wire.close()


_ALL_CORES = os.sched_getaffinity(0)


def _told(pipe: Connection, sender: Sender) -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):
        asyncio.get_running_loop().remove_reader(pipe.fileno())
    sender.stop()
