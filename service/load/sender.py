"""Sends one load on one event loop, closed or open, and records what comes of it.

Latency counts from when a call was due. In an open loop that is the scheduled moment, whatever became of the calls
before: a server that stalls delays all that were due meanwhile, and the record says so. In a closed loop a call is due
when its caller sends it, so a stall shows in as many calls as there are callers and no more.
"""

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from service.load.outcome import NOT_SENT, UNANSWERED, Outcome, Window
from service.load.plan import Load

OK = "OK"
PATIENCE = 10.0
"""Seconds that calls without a deadline are waited for after the last one was sent."""
GRACE = 1.0
"""Seconds that calls are waited for after an interruption; those that waited longer by then are counted."""
PAUSE = 0.02
"""Seconds before a caller of a closed loop asks again after a failure: a server that is gone fails in no time."""
DEAF = 0.05
"""Seconds before a call in which nobody is told to stop: a sleep that can be ended costs time and ends less exactly."""

Ended = Callable[[str, str], None]
"""Told once when a call ends: its status (OK or another) and the server's message."""


class Wire(Protocol):
    """What calls travel on. `send` never waits; what it does not do at once it does later."""

    async def open(self) -> None:
        """Connect."""

    def send(self, timeout: float | None, ended: Ended) -> None:
        """Start a call that gives up after so many seconds."""

    async def close(self) -> None:
        """Give up what is under way and disconnect."""


@dataclass(slots=True)
class Sample:
    """What came in since the last one, for whoever watches."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    latencies: "array[int]" = field(default_factory=lambda: array("q"))


class Sender:
    """One load on one wire.

    Args:
        load: what to send.
        wire: where; opened already.
    """

    def __init__(self, load: Load, wire: Wire) -> None:
        self._load, self._wire = load, wire
        self._clock = asyncio.get_running_loop().time
        self._outcome = Outcome(images=load.images)
        self._sample = Sample()
        self._under_way: dict[int, float] = {}
        self._count = 0
        self._stopped, self._idle = asyncio.Event(), asyncio.Event()
        self._start = self._end = 0.0

    def stop(self) -> None:
        """End before time, with what was measured so far; where all is sent, wait no longer for what is under way."""
        self._outcome.interrupted = True
        if self._stopped.is_set():
            self._idle.set()
            return
        self._end = max(self._start, min(self._end, self._clock()))
        self._stopped.set()

    def sample(self) -> Sample:
        """Return what came in since it was asked last."""
        taken, self._sample = self._sample, Sample()
        return taken

    async def run(self, begin: float | None = None) -> Outcome:
        """Warm up, measure, wait for what is under way.

        Args:
            begin: moment of the loop's clock at which the warm-up begins; None for now.
        """
        load, begin = self._load, self._clock() if begin is None else begin
        self._start = begin + load.warm_up
        self._end = self._start + load.seconds
        await self._sleep(begin)
        cpu = asyncio.create_task(self._cpu())
        if load.rate is None:
            for _ in range(load.concurrency):
                self._send(self._clock())
            await self._sleep(self._end)
        else:
            await self._scheduled(begin)
        self._stopped.set()
        await cpu
        await self._settle()
        self._outcome.seconds = self._end - self._start
        return self._outcome

    async def _scheduled(self, begin: float) -> None:
        for moment in self._load.moments():
            due = begin + moment
            if due >= self._end or self._stopped.is_set():
                await self._sleep(self._end)
                return
            await self._until(due)
            if not self._stopped.is_set():
                if due >= self._start:
                    self._outcome.late.append(max(0, round((self._clock() - due) * 1e6)))
                self._send(due)

    async def _until(self, due: float) -> None:
        """Sleep until a call is due, or until told to stop."""
        if due - self._clock() > DEAF:
            await self._sleep(due - DEAF)
        if not self._stopped.is_set():
            await asyncio.sleep(max(0.0, due - self._clock()))  # also where it is late: answers need the loop too

    async def _sleep(self, until: float) -> None:
        """Sleep until a moment, or until told to stop."""
        try:
            await asyncio.wait_for(self._stopped.wait(), max(0.0, until - self._clock()))
        except TimeoutError:
            return

    async def _cpu(self) -> None:
        """Count the process's CPU over the measured seconds."""
        await self._sleep(self._start)
        cpu, started = time.process_time(), self._clock()
        await self._stopped.wait()
        self._outcome.cpu_seconds = time.process_time() - cpu
        self._outcome.busiest = self._outcome.cpu_seconds / max(self._clock() - started, 1e-9)

    async def _settle(self) -> None:
        """Wait for what is under way; what does not end is given up, and after an interruption counted if it is old."""
        if not self._under_way:
            return
        deadline = self._load.deadline
        patience = PATIENCE if deadline is None else deadline + 1.0
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), GRACE if self._outcome.interrupted else patience)
        given_up, self._under_way = self._under_way, {}
        if not self._outcome.interrupted:
            for due in given_up.values():
                self._failed(due, UNANSWERED, f"no answer {patience:g} s after the last call was sent")
            return
        for due in given_up.values():
            if self._clock() - due >= GRACE:  # a younger one says nothing of the server
                self._failed(due, UNANSWERED, "still under way when interrupted")

    def _send(self, due: float) -> None:
        timeout = self._load.deadline
        if timeout is not None and self._load.rate is not None:
            timeout = due + timeout - self._clock()
            if timeout <= 0:
                self._failed(due, NOT_SENT, "the client came too late to send it")
                return
        number = self._count = self._count + 1
        self._under_way[number] = due
        self._wire.send(timeout, partial(self._ended, number))

    def _ended(self, number: int, status: str, detail: str) -> None:
        due = self._under_way.pop(number, None)
        if due is None:  # given up
            return
        now = self._clock()
        if status == OK:
            self._answered(due, now)
        else:
            self._failed(due, status, detail)
        if self._stopped.is_set():
            if not self._under_way:
                self._idle.set()
        elif self._load.rate is None:
            if status == OK:
                self._send(now)
            else:
                asyncio.get_running_loop().call_later(PAUSE, self._again)

    def _again(self) -> None:
        if not self._stopped.is_set():
            self._send(self._clock())

    def _answered(self, due: float, now: float) -> None:
        latency = round((now - due) * 1e6)
        self._sample.answered += 1
        self._sample.latencies.append(latency)
        self._outcome.quickest(latency)
        if self._start <= now < self._end:
            self._outcome.arrived += 1
            if self._load.deadline is None or now - due <= self._load.deadline:
                self._outcome.good += 1
        if self._start <= due < self._end:
            self._window(due).latencies.append(latency)

    def _failed(self, due: float, status: str, detail: str) -> None:
        self._sample.failed[status] += 1
        if self._start <= due < self._end:
            self._window(due).failed[status] += 1
            self._outcome.details.setdefault(status, detail)

    def _window(self, due: float) -> Window:
        windows, number = self._outcome.windows, int(due - self._start)
        while len(windows) <= number:
            windows.append(Window())
        return windows[number]
