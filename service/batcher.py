"""Dynamic batching: many requests in, few batches out; queue, deadlines, admission. Standard library only.

The batch that runs is the timer: while one runs, the next one gathers, so nothing ever waits for company. A caller
first reserves its places (`admit`), which is refused at once when they cannot be had or its deadline cannot be met;
then does its own work; then submits. Each waits on a raw lock of its own, which costs a third of a condition variable.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from service.errors import (
    Cancelled,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    Overloaded,
    SaccadeError,
    Unavailable,
)

Item = TypeVar("Item")
Result = TypeVar("Result")

Watch = Callable[[Callable[[], None]], bool]
"""Registers what to call when the caller leaves; False: it has left already."""

_COST_WEIGHT = 0.2
"""Weight of the newest batch in the cost of its bucket: five batches forget half of an old load."""


class Outcome(NamedTuple, Generic[Result]):
    """What one request got.

    Attributes:
        results: one for each item, in order.
        queue_seconds: from submission until its first batch began.
        run_seconds: from there until its last batch ended.
        batch_size: items in its last batch, those of other callers included.
    """

    results: list[Result]
    queue_seconds: float
    run_seconds: float
    batch_size: int


class BatchRun(NamedTuple):
    """One batch that ran, for whoever observes: its size, the seconds it ran, the items left waiting."""

    size: int
    seconds: float
    waiting: int


class Ticket(Generic[Item, Result]):
    """Reserved places in the queue: `submit` uses them, leaving the `with` block gives back unused ones."""

    def __init__(self, batcher: "Batcher[Item, Result]", count: int, deadline: float | None) -> None:
        self._batcher = batcher
        self.count = count
        self.deadline = deadline
        self.used = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._batcher._close_ticket(0 if self.used else self.count)

    def submit(self, items: Sequence[Item], watch: Watch = lambda _: True) -> Outcome[Result]:
        """Wait for the results of `items`, as many as were admitted; see `Batcher.submit`."""
        self._check(items)
        return self._batcher._submit(self, items, watch)

    def start(
        self, items: Sequence[Item], on_done: "Callable[[Pending[Item, Result]], None]"
    ) -> "Pending[Item, Result]":
        """Queue `items` and return at once. `on_done` is told when it is over, by whatever thread ended it; it must not
        block and must not call the batcher.
        """
        self._check(items)
        return self._batcher._start(self, items, on_done)

    def _check(self, items: Sequence[Item]) -> None:
        if len(items) != self.count or self.used:
            raise ValueError("a ticket is for as many items as were admitted, once. This is a bug.")


class Pending(Generic[Item, Result]):
    """One request in the queue: which of its items were taken into batches, and what came back."""

    __slots__ = (
        "answered",
        "batch_size",
        "deadline",
        "done",
        "error",
        "gone",
        "items",
        "on_done",
        "queued",
        "results",
        "run_end",
        "started",
        "taken",
    )

    def __init__(
        self,
        items: Sequence[Item],
        deadline: float | None,
        now: float,
        on_done: "Callable[[Pending[Item, Result]], None] | None" = None,
    ) -> None:
        self.items = items
        self.deadline = deadline
        self.queued = self.started = self.run_end = now
        self.taken = 0
        self.answered = 0
        self.results: list[Any] = [None] * len(items)
        self.batch_size = 0
        self.error: SaccadeError | None = None
        self.gone = False
        self.on_done = on_done
        self.done = threading.Lock()
        self.done.acquire()

    def wake(self) -> None:
        """Let the caller go on. Late and repeated calls do nothing: gRPC calls this after normal ends too."""
        try:
            self.done.release()
        except RuntimeError:
            return  # nobody waits any more
        if self.on_done is not None:
            self.on_done(self)

    def outcome(self) -> Outcome[Result]:
        """Return what came of it, once it is done.

        Raises:
            DeadlineExceeded, InferenceFailed, Unavailable: see service.errors.
        """
        if self.error is not None:
            raise self.error
        return Outcome(
            results=self.results,
            queue_seconds=self.started - self.queued,
            run_seconds=self.run_end - self.started,
            batch_size=self.batch_size,
        )

    def fail(self, error: SaccadeError) -> None:
        """Answer with an error; what is not taken yet never will be."""
        self.error = error
        self.gone = True
        self.wake()


_Slice = tuple[Pending[Item, Result], int, int]


class Batcher(Generic[Item, Result]):
    """Gathers the items of many callers into batches for one `run`.

    Args:
        run: gives one result for each item of a batch; only one call at a time.
        costs: seconds that a batch takes, by bucket; the largest bucket is the largest batch.
        queue_size: most items that may be admitted and not yet running.
        queue_delay: most seconds that a request waits for others to join its batch; a request that is alone never does.
        direct: whether a caller who finds nothing running runs its own batch; saves two hand-offs (150 us).
        on_batch: told of every batch, before its callers are.
        clock: seconds, the same clock that deadlines are on.
        name: of the thread, for whoever looks at the process.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        costs: Mapping[int, float],
        queue_size: int,
        queue_delay: float = 0.0,
        direct: bool = False,
        on_batch: Callable[[BatchRun], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        name: str = "instance",
    ) -> None:
        self._run = run
        self._costs = dict(costs)
        self._max_batch_size = max(costs)
        # For each size of a batch the bucket that holds it.
        self._buckets = [min(bucket for bucket in costs if bucket >= size) for size in range(max(costs) + 1)]
        self._queue_size = queue_size
        self._queue_delay = queue_delay
        self._direct = direct
        self._on_batch = on_batch
        self._clock = clock
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)  # only for drain; notified only while draining
        self._queue: deque[Pending[Item, Result]] = deque()
        self._places = 0  # items admitted and not yet in a batch
        self._running = False
        self._open = 0  # tickets
        self._gathering = False
        self._full = threading.Lock()  # released when what gathers fills a batch
        self._full.acquire()
        self._run_ends = 0.0  # predicted
        self._draining = self._closed = False
        self._work = threading.Lock()  # released once each time the thread is to run what waits
        self._work.acquire()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that are admitted and not yet in a batch."""
        return self._places

    @property
    def max_batch_size(self) -> int:
        """The most items that run together."""
        return self._max_batch_size

    def admit(self, count: int, *, deadline: float | None = None) -> Ticket[Item, Result]:
        """Reserve places for `count` items; use the ticket in a `with` block.

        Raises:
            InvalidInput: more items than the queue could ever hold.
            Overloaded: the queue is full, or the predicted end is past the deadline.
            Unavailable: draining.
        """
        if count > self._queue_size:
            raise InvalidInput("images", f"{count} pictures in one request; the limit is {self._queue_size}")
        with self._lock:
            if self._draining:
                raise Unavailable("draining; try another server")
            wait = self._predicted_seconds(count)
            left = float("inf") if deadline is None else max(0.0, deadline - self._clock())
            if self._places + count > self._queue_size:
                raise Overloaded(
                    f"{self._places} pictures wait, {count} more are too many; the limit is {self._queue_size}",
                    reason="queue_full",
                    retry_after=wait,
                    in_time=wait <= left,
                )
            if wait > left:
                raise Overloaded(
                    f"an answer would take {wait * 1000:.1f} ms; the deadline leaves {left * 1000:.1f} ms",
                    reason="deadline",
                    retry_after=wait,
                    in_time=False,
                )
            self._places += count
            self._open += 1
        return Ticket(self, count, deadline)

    def leave(self, pending: Pending[Item, Result]) -> None:
        """Take a started request out of the queue: its caller left, and what has not run yet never will."""
        with self._lock:
            if not pending.gone:
                self._drop(pending)

    def drain(self, seconds: float) -> bool:
        """Admit nothing more and wait for what was admitted; return whether all of it was answered in `seconds`."""
        with self._lock:
            self._draining = True
            return self._settled.wait_for(lambda: not self._places and not self._running, seconds)

    def close(self) -> None:
        """Answer what still waits with Unavailable and end the thread. A batch that runs is let finish."""
        with self._lock:
            if self._closed:
                return
            self._draining = self._closed = True
            left, self._queue = self._queue, deque()
            self._places = 0
            if not self._running:
                self._running = True
                self._work.release()
        for entry in left:
            entry.fail(Unavailable("the model was stopped; try another server"))
        self._thread.join()

    # What a ticket calls.

    def _close_ticket(self, unused: int) -> None:
        with self._lock:
            self._open -= 1
            if unused:
                self._free(unused)

    def _submit(self, ticket: Ticket[Item, Result], items: Sequence[Item], watch: Watch) -> Outcome[Result]:
        entry: Pending[Item, Result] = Pending(items, ticket.deadline, self._clock())
        if not watch(entry.wake):
            raise Cancelled("the caller left")
        alone = not self._queue_delay or self._open == 1
        if self._queue_up(entry, ticket, direct=self._direct and alone):
            self._run_one_batch()
        return self._wait(entry)

    def _start(
        self, ticket: Ticket[Item, Result], items: Sequence[Item], on_done: Callable[[Pending[Item, Result]], None]
    ) -> Pending[Item, Result]:
        entry: Pending[Item, Result] = Pending(items, ticket.deadline, self._clock(), on_done)
        self._queue_up(entry, ticket, direct=False)
        return entry

    def _queue_up(self, entry: Pending[Item, Result], ticket: Ticket[Item, Result], *, direct: bool) -> bool:
        """Put a request into the queue; return whether the calling thread is to run the next batch."""
        with self._lock:
            if self._closed:
                raise Unavailable("the model was stopped; try another server")
            ticket.used = True
            self._queue.append(entry)
            if self._running:
                if self._gathering and self._queued() >= self._max_batch_size:
                    self._gathering = False
                    self._full.release()
                return False
            self._running = True
            if not direct:
                self._work.release()
            return direct

    def _wait(self, entry: Pending[Item, Result]) -> Outcome[Result]:
        """Block until the entry is answered, its deadline passes or its caller leaves."""
        timeout = -1.0
        if entry.deadline is not None:
            timeout = min(max(0.0, entry.deadline - self._clock()), threading.TIMEOUT_MAX)
        in_time = entry.done.acquire(timeout=timeout)
        if entry.error is None and entry.answered < len(entry.items):
            with self._lock:
                if not entry.gone:
                    self._drop(entry)
            if not in_time or (entry.deadline is not None and self._clock() >= entry.deadline):
                raise DeadlineExceeded("the deadline passed before the answer was there")
            raise Cancelled("the caller left")
        return entry.outcome()

    # What runs batches: the instance's own thread, or a caller who found nothing running.

    def _serve(self) -> None:
        while True:
            self._work.acquire()
            self._gather()
            while batch := self._take():
                self._run_batch(batch)
                self._gather()
            with self._lock:
                if self._closed and not self._running:
                    return

    def _gather(self) -> None:
        """Let the oldest request wait for others up to the queue delay, unless it is alone or the batch is full."""
        if not self._queue_delay:
            return
        with self._lock:
            if not self._queue or self._closed or self._queued() >= self._max_batch_size:
                return
            left = self._queue[0].queued + self._queue_delay - self._clock()
            alone = len(self._queue) == 1 and self._open <= 1
            if left <= 0 or alone:
                return
            self._gathering = True
        if not self._full.acquire(timeout=left):
            with self._lock:
                if self._gathering:
                    self._gathering = False
                    return
            self._full.acquire()  # the batch filled up just when the time was over

    def _run_one_batch(self) -> None:
        batch = self._take()
        if batch:
            self._run_batch(batch)
        with self._lock:
            if batch and not self._queue and not self._closed:
                self._rest()
            elif batch or (self._closed and not self._running):
                self._running = True  # the thread goes on with what gathered, or ends
                self._work.release()

    def _take(self) -> list[_Slice[Item, Result]]:
        """Form the next batch from the head of the queue; empty: nothing waits, and nothing runs now."""
        batch: list[_Slice[Item, Result]] = []
        room = self._max_batch_size
        now = self._clock()
        with self._lock:
            while self._queue and room:
                entry = self._queue[0]
                if entry.deadline is not None and entry.deadline <= now and not entry.gone:
                    self._free(len(entry.items) - entry.taken)
                    entry.fail(DeadlineExceeded("the deadline passed while the request waited"))
                if entry.gone:
                    self._queue.popleft()
                    continue
                start, end = entry.taken, min(entry.taken + room, len(entry.items))
                if start == 0:
                    entry.started = now
                entry.taken = end
                room -= end - start
                self._free(end - start)
                batch.append((entry, start, end))
                if end == len(entry.items):
                    self._queue.popleft()
            if batch:
                self._run_ends = now + self._cost(self._max_batch_size - room)
            else:
                self._rest()
        return batch

    def _run_batch(self, batch: list[_Slice[Item, Result]]) -> None:
        items = [item for entry, start, end in batch for item in entry.items[start:end]]
        started = self._clock()
        try:
            results = self._run(items)
            if len(results) != len(items):
                raise InferenceFailed(f"{len(items)} items gave {len(results)} results")
            ended = self._clock()
            self._learn(len(items), ended - started)
            self._on_batch(BatchRun(len(items), ended - started, self._places))
        except Exception as error:  # noqa: BLE001 - whatever it was, its callers hear of it and the instance lives on
            for entry, _, _ in batch:
                self._fail(entry, error)
            return
        position = 0
        for entry, start, end in batch:
            entry.results[start:end] = results[position : position + end - start]
            position += end - start
            entry.run_end, entry.batch_size = ended, len(items)
            entry.answered += end - start
            if entry.answered == len(entry.items):
                entry.wake()

    def _fail(self, entry: Pending[Item, Result], error: Exception) -> None:
        failure = InferenceFailed("the batch failed")
        failure.__cause__ = error
        with self._lock:
            if not entry.gone:
                self._drop(entry)
        entry.fail(failure)

    # Bookkeeping; the lock is held unless it says otherwise.

    def _drop(self, entry: Pending[Item, Result]) -> None:
        """Take an unanswered entry out of the queue, its items with it, and free the places of those not yet run."""
        entry.gone = True
        if entry.taken < len(entry.items):
            self._free(len(entry.items) - entry.taken)
            if entry in self._queue:
                self._queue.remove(entry)

    def _queued(self) -> int:
        """Return the items in the queue; what is admitted and still being decoded is not there yet."""
        return sum(len(entry.items) - entry.taken for entry in self._queue)

    def _free(self, places: int) -> None:
        self._places = max(0, self._places - places)
        if self._draining:
            self._settled.notify_all()

    def _rest(self) -> None:
        self._running = False
        self._run_ends = 0.0
        if self._draining:
            self._settled.notify_all()

    def _cost(self, size: int) -> float:
        """Return the seconds that a batch of `size` takes, by the bucket that holds it."""
        return self._costs[self._buckets[size]]

    def _learn(self, size: int, seconds: float) -> None:
        """Keep the cost of a bucket current; without the lock, only one batch runs at a time."""
        bucket = self._buckets[size]
        self._costs[bucket] += _COST_WEIGHT * (seconds - self._costs[bucket])

    def _predicted_seconds(self, count: int) -> float:
        """Return the seconds until `count` items more would be answered: the running batch, those ahead, their own."""
        ahead = self._places + count
        full = ceil(ahead / self._max_batch_size) - 1
        running = max(0.0, self._run_ends - self._clock()) if self._running else 0.0
        return running + full * self._cost(self._max_batch_size) + self._cost(ahead - full * self._max_batch_size)
