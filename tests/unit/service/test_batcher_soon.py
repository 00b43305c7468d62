"""Short batches on the thread that brings requests one by one, as a stream's messages come."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from service.batcher import Batcher
from service.errors import Unavailable
from service.requests import Pending
from tests.fakes import WAIT, Job, results

COSTS = {1: 0.0002, 2: 0.0003, 4: 0.0006, 8: 0.002}
"""Seconds a batch: those of up to 4 are short ones."""


class Stream:
    """Brings requests to a batcher and looks again when it is told to; a fake clock, batches of known cost."""

    def __init__(self, costs: dict[int, float] = COSTS, *, queue_delay: float = 0.0) -> None:
        self.now = 100.0
        self.costs = costs
        self.times = 1.0  # what batches are said to cost
        self.goes_on = True
        self.looks: list[Callable[[], None]] = []
        self.ran: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.failing: Exception | None = None
        self.over: list[Pending[int, int]] = []
        self._told = threading.Semaphore(0)
        self.batcher: Batcher[int, int] = Batcher(
            [self._run], costs=costs, queue_size=64, queue_delay=queue_delay, direct=0.0006, clock=lambda: self.now
        )

    def _run(self, items: Sequence[int]) -> list[int]:
        self.ran.append(list(items))
        self.threads.append(threading.current_thread())
        self.now += self.times * self.costs[min(bucket for bucket in self.costs if bucket >= len(items))]
        if self.failing:
            raise self.failing
        return [-item for item in items]

    def bring(self, *items: int, deadline: float | None = None) -> list[Pending[int, int]]:
        """Bring a request for each item."""
        brought = []
        for item in items:
            with self.batcher.admit(1, deadline=deadline) as ticket:
                brought.append(ticket.start([item], self._ended, later=self._later))
        return brought

    def look(self) -> None:
        """Do what was put off until now."""
        looks, self.looks = self.looks, []
        for look in looks:
            look()

    def look_all(self) -> None:
        """Look until nothing is put off any more."""
        while self.looks:
            self.look()

    def wait(self, count: int) -> None:
        """Return when so many requests are over."""
        for _ in range(count):
            assert self._told.acquire(timeout=WAIT)

    def _later(self, look: Callable[[], None]) -> bool:
        if self.goes_on:
            self.looks.append(look)
        return self.goes_on

    def _ended(self, pending: Pending[int, int]) -> None:
        self.over.append(pending)
        self._told.release()


@pytest.fixture
def stream() -> Iterator[Stream]:
    """Return a stream; in the end the batcher's thread ends."""
    made = Stream()
    yield made
    made.look_all()
    made.batcher.close()


def test_requests_gather_until_no_more_come(stream: Stream) -> None:
    """What comes between two looks joins the batch; when none came it runs, on the thread that looks."""
    stream.bring(1)
    stream.look()  # one came since the last look
    stream.bring(2)
    stream.look()
    assert stream.ran == []
    stream.look()
    assert stream.ran == [[1, 2]]
    assert stream.threads == [threading.current_thread()]
    assert [results(pending.outcome()) for pending in stream.over] == [[-1], [-2]]


def test_a_short_batch_is_full(stream: Stream) -> None:
    """A batch that would be short no longer does not grow on; the rest is the next one."""
    stream.bring(1, 2, 3, 4, 5)
    stream.look()
    assert stream.ran == [[1, 2, 3, 4]]
    stream.look_all()
    assert stream.ran == [[1, 2, 3, 4], [5]]
    assert set(stream.threads) == {threading.current_thread()}


@pytest.mark.parametrize(("times", "largest"), [(0.5, 8), (1.0, 4), (2.5, 4)])
def test_short_is_what_is_short_now(stream: Stream, times: float, largest: int) -> None:
    """Batches that take less than at warm-up grow; where all takes longer they stay as large as they were."""
    stream.times = times
    for _ in range(20):
        stream.bring(*range(8))
        stream.look_all()
    assert len(stream.ran[-1]) == largest


def test_few_are_no_short_batch() -> None:
    """Where four take long they run on the instance's own thread, as many together as there are."""
    stream = Stream({1: 0.0004, 4: 0.0016})
    stream.bring(1)
    stream.wait(1)
    assert stream.looks == []
    assert threading.current_thread() not in stream.threads
    stream.batcher.close()


def test_a_queue_delay_is_waited_for() -> None:
    """With a queue delay the instance's own thread gathers, since nobody else may wait."""
    stream = Stream(queue_delay=0.01)
    stream.bring(1)
    stream.wait(1)
    assert stream.looks == []
    assert threading.current_thread() not in stream.threads
    stream.batcher.close()


def test_a_stream_that_ended(stream: Stream) -> None:
    """Where nobody will look again the instance's own thread runs what waits."""
    stream.goes_on = False
    stream.bring(1, 2)
    stream.wait(2)
    assert threading.current_thread() not in stream.threads
    assert sorted(item for batch in stream.ran for item in batch) == [1, 2]


def test_a_call_that_was_answered(stream: Stream) -> None:
    """What came while a batch ran is the own thread's where the call that borrowed it was answered by then."""
    stream.bring(1, 2, 3, 4, 5)
    stream.look()
    stream.goes_on = False
    stream.bring(6)
    stream.look()
    stream.wait(6)
    assert stream.ran == [[1, 2, 3, 4], [5, 6]]
    assert stream.threads[0] is threading.current_thread() is not stream.threads[1]


def test_a_stream_that_ends_between_two_looks(stream: Stream) -> None:
    """Likewise where it ended after the first look was put off."""
    stream.bring(1)
    stream.goes_on = False
    stream.look()
    stream.wait(1)
    assert threading.current_thread() not in stream.threads


def test_expired_and_left_ones_never_run(stream: Stream) -> None:
    """Who left, and whose deadline passed, is not in the batch."""
    left, _ = *stream.bring(1), *stream.bring(2, deadline=stream.now + 0.01)
    stream.batcher.leave(left)
    stream.bring(3)
    stream.now += 1.0
    stream.look_all()
    assert stream.ran == [[3]]
    assert [pending.items for pending in stream.over] == [[2], [3]]


def test_a_failed_batch_is_its_callers(stream: Stream) -> None:
    """A batch that raises fails those in it; the next ones run."""
    stream.failing = ValueError("broken")
    stream.bring(1, 2)
    stream.look_all()
    stream.failing = None
    stream.bring(3)
    stream.look_all()
    assert [pending.error is None for pending in stream.over] == [False, False, True]


def test_nothing_left_to_run(stream: Stream) -> None:
    """Where all left before the look the instance rests, and serves the next request."""
    (left,) = stream.bring(1)
    stream.batcher.leave(left)
    stream.look_all()
    stream.bring(2)
    stream.look_all()
    assert stream.ran == [[2]]


def test_closed_between_two_looks(stream: Stream) -> None:
    """Requests that wait for the look when the model is stopped are told so at once, and the look harms nothing."""
    (pending,) = stream.bring(1)
    closing = Job(stream.batcher.close)
    stream.wait(1)
    with pytest.raises(Unavailable):
        pending.outcome()
    closing.answer()
    stream.look_all()
    assert stream.ran == []


def test_closed_without_another_look(stream: Stream) -> None:
    """The look may never come, as gRPC's thread ends: closing does not wait for it."""
    stream.bring(1, 2, 3, 4, 5)
    stream.look()  # four ran, a look at the fifth is put off
    Job(stream.batcher.close).answer()
    assert stream.ran == [[1, 2, 3, 4]]
    with pytest.raises(Unavailable):
        stream.over[-1].outcome()
