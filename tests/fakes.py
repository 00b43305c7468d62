"""Fakes that are passed in where a test must hold the server still or make it fail."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pytest

from service.batcher import Batcher, BatchRun
from service.errors import Overloaded, SaccadeError, Unavailable
from service.manifest import Manifest
from service.metrics import Metrics
from service.model import Facts, Model, Options
from service.requests import Outcome, Pending
from service.server import Server
from service.session import Session
from service.tensors import Tensor
from tests.onnx_models import LABELS, SPEC

WAIT = 20.0
"""Seconds after which something that must happen counts as never happening."""

Batch = npt.NDArray[np.uint8]

Value = TypeVar("Value")
FAR = 1e9
"""Seconds to a deadline that no test reaches."""
COSTS = {4: 80.0, 1: 20.0, 2: 30.0}
"""Seconds a batch of the bench's model, by bucket; not in order on purpose."""
QUEUE_SIZE = 80
"""Of the bench's batcher."""


def uniform(batch: Batch) -> npt.NDArray[np.float32]:
    """Answer as a model that knows nothing."""
    return np.full((len(batch), len(LABELS)), 1 / len(LABELS), np.float32)


class HeldSession:
    """A session whose runs wait until the test opens the gate; counts what it was given."""

    def __init__(self, answer: Callable[[Batch], npt.NDArray[np.float32]] = uniform) -> None:
        self.on_own_thread = True
        self.input = Tensor("image", "UINT8", (-1, SPEC.height, SPEC.width, SPEC.channels), "NHWC")
        self.answer = answer
        self.gate = threading.Event()
        self.began = threading.Semaphore(0)
        self.pictures = 0

    def take_over(self) -> None:
        """Be served by another thread."""

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Count the batch, say that it began, wait for the gate, answer."""
        self.pictures += len(batch)
        self.began.release()
        assert self.gate.wait(WAIT), "the test never opened the gate"
        return self.answer(batch)

    def load(
        self,
        *,
        queue_size: int = 8,
        max_batch_size: int = 1,
        seconds: float = 0.0,
        costs: dict[int, float] | None = None,
    ) -> "HeldLoad":
        """Return what a Repository calls to load a version: a model around this session."""
        return HeldLoad(self, queue_size, costs or {max_batch_size: seconds})


class HeldLoad:
    """Loads every version as a model around one held session.

    Args:
        session: the fake.
        queue_size: of the model's queue.
        costs: what batches are said to cost, by bucket.
    """

    def __init__(self, session: HeldSession, queue_size: int, costs: dict[int, float]) -> None:
        self._session = session
        self._options = Options(queue_size=queue_size, max_batch_size=max(costs))
        self._costs = costs
        self.metrics: Metrics | None = None

    def __call__(self, path: Path, name: str, version: int) -> Model:
        """Return the model."""
        assert self.metrics is not None, "set metrics first"
        return Model(
            Facts(name, version, "cpu", "fp32", verified=True, sha256="0" * 64),
            Manifest(labels=LABELS, preprocessing=SPEC),
            [cast("Session", self._session)],
            costs=self._costs,
            options=self._options,
            metrics=self.metrics,
        )


def until_waiting(server: Server, pictures_waiting: int) -> None:
    """Return when so many pictures wait in the queue of the server's only model."""
    waiting = threading.Event()
    for _ in range(int(WAIT / 0.005)):
        depth = server.metrics.registry.get_sample_value("saccade_queue_depth", {"model": "linear", "version": "1"})
        if depth == pictures_waiting:
            return
        waiting.wait(0.005)
    raise AssertionError(f"{pictures_waiting} pictures never waited")


def double(items: Sequence[int]) -> list[int]:
    """Answer as the fake model does."""
    return [item * 2 for item in items]


class Job(threading.Thread, Generic[Value]):
    """Work on a thread of its own."""

    def __init__(self, work: Callable[[], Value]) -> None:
        super().__init__(daemon=True)
        self._work, self._end = work, Future[Value]()
        self.start()

    def run(self) -> None:
        """Keep what the work returns or raises."""
        try:
            self._end.set_result(self._work())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self._end.set_exception(error)

    def answer(self) -> Value:
        """Return what the work returned."""
        self.join(WAIT)
        return self._end.result(0)


def results(outcome: Outcome) -> list[int]:
    """Return what each item of a request got."""
    return [result for part in outcome.parts for result in part]


class Caller:
    """One request: its items, what came of it, and how often and by whom that was told."""

    def __init__(self, items: Sequence[int]) -> None:
        self.items, self.left = items, False
        self.pending: Pending[int, int]
        self.tellers = list[threading.Thread]()
        self.then: Callable[[], object] = lambda: None  # what it does when it is told
        self._told = threading.Event()

    def __call__(self, pending: Pending[int, int]) -> None:
        """Be told."""
        self.tellers.append(threading.current_thread())
        self.pending = pending
        self._told.set()
        self.then()

    @property
    def told(self) -> bool:
        """Whether it is over."""
        return self._told.is_set()

    def answer(self) -> Outcome:
        """Return what it got, as soon as it is told."""
        assert self._told.wait(WAIT), "the request was never over"
        return self.pending.outcome()

    def results(self) -> list[int]:
        """Return what each of its items got, as soon as it is told."""
        return results(self.answer())

    def failure(self) -> SaccadeError:
        """Return what it failed with, as soon as it is told."""
        with pytest.raises(SaccadeError) as caught:
            self.answer()
        return caught.value


class HeldBatch:
    """One batch as the fake model has it, held until the test ends it."""

    def __init__(self, number: int, items: Sequence[int]) -> None:
        self.number, self.items, self.thread = number, list(items), threading.current_thread()
        self.go = threading.Event()
        self.answer: Callable[[list[int]], list[int]] | None = None

    def end(self, answer: Callable[[list[int]], list[int]] | None = None) -> None:
        """Let it end, with another answer than the bench's if one is given."""
        self.answer = answer
        self.go.set()


class Bench:
    """A batcher with a fake clock and a fake model, which doubles items and holds each batch until the test ends it.

    Args:
        direct: seconds that a batch may take on the thread that brings it; `busy` brings its request so.
        instances: of the fake model.
    """

    def __init__(self, *, direct: float = 0.0, instances: int = 1) -> None:
        self.direct, self.now, self.seconds = direct, 100.0, 0.0  # seconds: that each batch takes
        self.on_clock: Callable[[], object] = lambda: None  # called after each look at the clock
        self.answer: Callable[[list[int]], list[int]] = double
        self.trace: Callable[[FrameType, str, Any], Any] | None = None  # follows what comes after a batch
        self.seen, self.calls, self.batches = list[BatchRun](), list[Caller](), list[HeldBatch]()
        self._begun, self._held = SimpleQueue[HeldBatch](), True
        self._busy = [threading.Lock() for _ in range(instances)]
        self.name = f"bench-{id(self)}"
        self.batcher: Batcher[int, int] = Batcher(
            [lambda items, number=number: self._run(number, items) for number in range(instances)],  # type: ignore[misc]
            costs=COSTS,
            queue_size=QUEUE_SIZE,
            direct=direct,
            on_batch=self.seen.append,
            clock=self._clock,
            name=self.name,
        )
        self.threads = [thread for thread in threading.enumerate() if thread.name.startswith(self.name)]

    def _clock(self) -> float:
        now = self.now
        self.on_clock()
        return now

    def _run(self, number: int, items: Sequence[int]) -> list[int]:
        assert self._busy[number].acquire(blocking=False), "an instance runs two batches at once"
        batch = HeldBatch(number, items)
        self.batches.append(batch)
        self._begun.put(batch)
        assert not self._held or batch.go.wait(WAIT), "the test never ended the batch"
        self.now += self.seconds
        self._busy[number].release()
        sys.settrace(self.trace or sys.gettrace())  # of this thread only
        return (batch.answer or self.answer)(batch.items)

    @property
    def ran(self) -> list[list[int]]:
        """The items of the batches."""
        return [batch.items for batch in self.batches]

    def call(self, *items: int, left: float = FAR, alone: bool = False) -> Caller:
        """Start a request on this thread."""
        call = Caller(items)
        with self.batcher.admit(len(items), deadline=self.now + left) as ticket:
            self.calls.append(call)
            call.pending = ticket.start(items, call, alone=alone)
        return call

    def begun(self) -> HeldBatch:
        """Return the next batch, as soon as it runs."""
        return self._begun.get(timeout=WAIT)

    def busy(self, *items: int, left: float = FAR) -> tuple[Caller, HeldBatch]:
        """Start a request; return when its first batch runs, with `direct` on the thread that brings it."""
        if self.direct:
            Job(lambda: self.call(*items, left=left, alone=True))
        else:
            self.call(*items, left=left)
        batch = self.begun()
        return next(call for call in self.calls if call.items == items), batch

    def leave(self, call: Caller) -> None:
        """Let a caller leave."""
        call.left = True
        self.batcher.leave(call.pending)

    def free(self) -> None:
        """Hold no batch any more."""
        self._held = False
        for batch in list(self.batches):
            batch.go.set()

    def predicted(self, count: int, prepare: float = 0.0) -> float:
        """Return in how many seconds `count` more items would be answered."""
        with pytest.raises(Overloaded) as refusal:
            self.batcher.admit(count, deadline=self.now, prepare=prepare)
        return refusal.value.retry_after

    def ending(self, end: Callable[[], Value]) -> Job[Value]:
        """Start a drain or a close; return when the batcher refuses, which is the only sign of it."""
        job, late = Job(end), time.monotonic() + WAIT
        with pytest.raises(Unavailable):
            while time.monotonic() < late:
                with self.batcher.admit(1):
                    pass
        return job
