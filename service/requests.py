"""Requests of a batcher: one under way, and the queue of those that wait. Standard library only."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from service.costs import Costs
from service.errors import SaccadeError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Results(Protocol):
    """What a batch gives, in one piece: its length and its slices are all that is asked for. A list will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...  # noqa: ANN401 - of its own kind, which a list does not say


class Outcome(NamedTuple):
    """What one request got.

    Attributes:
        parts: the results of each batch that it was part of, in the order of its items.
        queue_seconds: from its start until its first batch began.
        run_seconds: from there until its last batch ended.
        batch_size: items in its last batch, those of other callers included.
    """

    parts: list[Any]
    queue_seconds: float
    run_seconds: float
    batch_size: int


class Pending(Generic[Item, Result]):
    """One request that was started: which of its items were taken into batches, and what came back."""

    __slots__ = (
        "answered",
        "batch_size",
        "deadline",
        "error",
        "items",
        "on_done",
        "over",
        "parts",
        "queued",
        "run_end",
        "started",
        "taken",
    )

    def __init__(
        self,
        items: Sequence[Item],
        deadline: float | None,
        now: float,
        on_done: "Callable[[Pending[Item, Result]], None]",
    ) -> None:
        self.items = items
        self.deadline = deadline
        self.queued = self.started = self.run_end = now
        self.taken = 0
        self.answered = 0
        self.parts: list[tuple[int, Results]] = []  # of its results, by the number of the first
        self.batch_size = 0
        self.error: SaccadeError | None = None
        self.over = False  # answered, failed, or the caller left; changed under the batcher's lock, once
        self.on_done = on_done

    def outcome(self) -> Outcome:
        """Return what came of it, once `on_done` was told.

        Raises:
            DeadlineExceeded, InferenceFailed, Unavailable: see service.errors.
        """
        if self.error is not None:
            raise self.error
        if len(self.parts) > 1:
            self.parts.sort(key=itemgetter(0))  # instances end batches in any order
        return Outcome(
            [part for _, part in self.parts], self.started - self.queued, self.run_end - self.started, self.batch_size
        )

    def tell(self, error: SaccadeError | None = None) -> None:
        """Tell its caller that it is over; a caller that raises harms no other."""
        self.error = error
        try:
            self.on_done(self)
        except Exception:
            logging.getLogger("saccade").exception("a caller could not be told. This is a bug.")


Slice: TypeAlias = tuple[Pending[Item, Result], int, int]
"""Items of one request in a batch: from the first number up to the second."""


class Queue(Generic[Item, Result]):
    """Requests in the order of their start, and the places that are taken. Its batcher's lock is held for all of it.

    Attributes:
        places: items that are admitted and not yet in a batch.
        started: those of them that wait to be taken; the others are being made ready.
    """

    def __init__(self) -> None:
        self._requests: deque[Pending[Item, Result]] = deque()
        self.places = 0
        self.started = 0

    def __bool__(self) -> bool:
        return bool(self._requests)

    @property
    def oldest(self) -> Pending[Item, Result]:
        """The request that waits longest; there must be one."""
        return self._requests[0]

    def add(self, request: Pending[Item, Result]) -> None:
        """Let a request wait whose places are taken already."""
        self._requests.append(request)
        self.started += len(request.items)

    def remove(self, request: Pending[Item, Result]) -> None:
        """Take a request out, unless it is in batches to its end, and free its places."""
        if request.taken < len(request.items) or not request.items:
            self._requests.remove(request)
            self._free(len(request.items) - request.taken)

    def all(self) -> list[Pending[Item, Result]]:
        """Return the requests that wait."""
        return list(self._requests)

    def take(
        self, most: int, now: float, costs: Costs, expired: Callable[[Pending[Item, Result]], object]
    ) -> list[Slice[Item, Result]]:
        """Take the next batch from the head on; it ends before a request that would make those late who came first.

        Args:
            most: items.
            now: on the clock of deadlines.
            costs: of batches.
            expired: given each request that comes too late; must remove it.
        """
        batch: list[Slice[Item, Result]] = []
        size, least = 0, inf  # the earliest deadline in the batch
        while self._requests and size < most:
            request = self._requests[0]
            if request.deadline is not None and request.deadline <= now:
                expired(request)
                continue
            start, end = request.taken, min(request.taken + most - size, len(request.items))
            if least < inf and now + costs.of(size + end - start, now) > least and costs.grow(size, end - start, now):
                break
            if start == 0:
                request.started = max(now, request.queued)  # it may have come since the clock was read
            request.taken = end
            size += end - start
            least = min(least, request.deadline or inf)
            batch.append((request, start, end))
            if end == len(request.items):
                self._requests.popleft()
        self._free(size)
        return batch

    def _free(self, count: int) -> None:
        self.places -= count
        self.started -= count
