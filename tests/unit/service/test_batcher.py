import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import FrameType
from typing import Any, Generic, TypeVar

import pytest

from service.batcher import Batcher, BatchRun, Outcome, Watch
from service.errors import Cancelled, DeadlineExceeded, InferenceFailed, InvalidInput, Overloaded, Unavailable

Value = TypeVar("Value")
WAIT = 10.0  # seconds after which a thread counts as hung; no test that passes waits for it
FAR = 1e9  # seconds to a deadline that no test reaches
COSTS = {4: 80.0, 1: 20.0, 2: 30.0}  # not in order on purpose
QUEUE_SIZE = 80


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

    def failure(self) -> BaseException | None:
        """Return what the work raised."""
        self.join(WAIT)
        return self._end.exception(0)


class Call(Job[Outcome[int]]):
    """A caller on a thread of its own, in the queue as soon as it is made; `held` there until `go` is set."""

    def __init__(self, batcher: Batcher[int, int], items: Sequence[int], deadline: float, *, held: bool) -> None:
        self.watched, self.held, self.queued, self.go = False, held, threading.Event(), threading.Event()
        super().__init__(lambda: submit(batcher, items, deadline, self._watch))
        assert self.queued.wait(WAIT), "the caller never came to the queue"

    def _watch(self, wake: Callable[[], None]) -> bool:
        self.leave, self.watched = wake, True
        return True


class Bench:
    """A batcher with a fake clock and a fake model, which doubles items and holds each batch at `gate`."""

    def __init__(self, *, direct: bool) -> None:
        self.direct, self.now, self.seconds = direct, 100.0, 0.0  # seconds: that each batch takes
        self.answer: Callable[[list[int]], list[int]] = double
        self.trace: Callable[[FrameType, str, Any], Any] | None = None  # follows what comes after a batch
        self.batches, self.runners = list[list[int]](), list[threading.Thread]()
        self.seen, self.calls = list[BatchRun](), list[Call]()
        self.gate, self._began, self._alone = threading.Semaphore(0), threading.Semaphore(0), threading.Lock()
        name = f"bench-{id(self)}"
        options: dict[str, Any] = {"costs": COSTS, "queue_size": QUEUE_SIZE, "direct": direct, "clock": self._clock}
        self.batcher: Batcher[int, int] = Batcher(self._run, on_batch=self.seen.append, name=name, **options)
        self.thread = next(thread for thread in threading.enumerate() if thread.name == name)

    def _clock(self) -> float:
        thread = threading.current_thread()
        if isinstance(thread, Call) and thread.watched:
            thread.queued.set()  # a caller's first look after its watch comes from the queue
            assert not thread.held or thread.go.wait(WAIT)
        return self.now

    def _run(self, items: Sequence[int]) -> list[int]:
        assert self._alone.acquire(blocking=False), "two batches run at once"
        self.batches.append(list(items))
        self.runners.append(threading.current_thread())
        self._began.release()
        assert self.gate.acquire(timeout=WAIT)
        self.now += self.seconds
        self._alone.release()
        sys.settrace(self.trace or sys.gettrace())  # of this thread only
        return self.answer(list(items))

    def call(self, *items: int, left: float = FAR, held: bool = False) -> Call:
        """Start a caller; return when it is in the queue."""
        self.calls.append(Call(self.batcher, items, self.now + left, held=held))
        return self.calls[-1]

    def wait(self) -> None:
        """Return when the next batch runs."""
        assert self._began.acquire(timeout=WAIT), "no batch began"

    def busy(self, *items: int, left: float = FAR) -> Call:
        """Start a caller; return when its first batch runs."""
        call = self.call(*items, left=left)
        self.wait()
        return call

    def free(self) -> None:
        """Hold no batch any more."""
        self.gate.release(10_000)

    def predicted(self, count: int) -> float:
        """Return in how many seconds `count` more items would be answered."""
        with pytest.raises(Overloaded) as refusal:
            self.batcher.admit(count, deadline=self.now)
        return refusal.value.retry_after

    def ending(self, end: Callable[[], Value]) -> Job[Value]:
        """Start a drain or a close; return when the batcher refuses, which is the only sign of it."""
        job, late = Job(end), time.monotonic() + WAIT
        with pytest.raises(Unavailable):
            while time.monotonic() < late:
                self.batcher.admit(0)
        return job


@pytest.fixture(params=[False, True], ids=["thread", "direct"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a fresh bench, without and with `direct` unless the test is marked; every thread of it ends."""
    bench = Bench(direct=request.param)
    yield bench
    bench.free()
    for job in [Job[Any](bench.batcher.close), *bench.calls]:
        job.failure()


only_thread = pytest.mark.parametrize("bench", [False], indirect=True, ids=["thread"])
only_direct = pytest.mark.parametrize("bench", [True], indirect=True, ids=["direct"])


def double(items: Sequence[int]) -> list[int]:
    """Answer as the fake model does."""
    return [item * 2 for item in items]


def submit(
    batcher: Batcher[int, int], items: Sequence[int], deadline: float | None = None, watch: Watch = lambda _: True
) -> Outcome[int]:
    """Send one request on this thread."""
    with batcher.admit(len(items), deadline=deadline) as ticket:
        return ticket.submit(items, watch)


def test_next_batch_is_what_gathered(bench: Bench) -> None:
    """What comes while a batch runs is the next batch, in the order of arrival, up to the largest bucket."""
    calls = [bench.busy(0), bench.call(1), bench.call(2, 3), bench.call(4), bench.call(5, 6)]
    bench.free()
    assert [call.answer().results for call in calls] == [[0], [2], [4, 6], [8], [10, 12]]
    assert (bench.batches, bench.batcher.max_batch_size) == ([[0], [1, 2, 3, 4], [5, 6]], 4)


def test_large_request_is_split(bench: Bench) -> None:
    """A request larger than the largest batch is run in parts, shares batches, and is answered whole, in order."""
    calls = [bench.busy(0), bench.call(*range(1, 11)), bench.call(11, 12, 13)]
    bench.free()
    assert [call.answer().results for call in calls] == [[0], double(range(1, 11)), [22, 24, 26]]
    assert bench.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13]]


@pytest.mark.parametrize("unruly", [False, True])
def test_many_callers_get_their_own(bench: Bench, *, unruly: bool) -> None:
    """Of 16 threads' requests each gets its own results, or an error if unruly; one batch runs, no place is lost."""
    watches: list[Watch] = [lambda _: True, lambda _: False, lambda wake: not Job(wake).failure()]

    def work(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(200):
            items = [numbers.randrange(2000) for _ in range(numbers.randint(1, 5))]
            deadline = bench.now + numbers.choice([0.01, 0.03, FAR]) if unruly else None
            watch = numbers.choice(watches) if unruly else watches[0]
            try:
                assert submit(bench.batcher, items, deadline, watch).results == double(items)
            except (Overloaded, Cancelled, DeadlineExceeded, InferenceFailed):
                assert unruly

    if unruly:
        bench.seconds, bench.answer = 0.001, lambda items: double(items if all(item % 20 for item in items) else [])
    bench.free()
    for job in [Job(lambda seed=seed: work(seed)) for seed in range(16)]:  # type: ignore[misc]
        job.answer()
    assert max(len(batch) for batch in bench.batches) == 4
    assert (bench.batcher.drain(WAIT), bench.batcher.waiting) == (True, 0)


@pytest.mark.parametrize(("left", "in_time"), [(None, True), (1700.0, True), (1699.9, False), (-1.0, False)])
def test_full_queue_refuses(bench: Bench, left: float | None, *, in_time: bool) -> None:
    """A request that does not fit beside what waits and is reserved is refused; it hears when to retry, if in time."""
    bench.busy(0, 1, 2, 3)
    bench.call(1, 2)
    bench.batcher.admit(73)
    with pytest.raises(Overloaded, match="75 pictures wait, 6 more are too many; the limit is 80") as refusal:
        bench.batcher.admit(6, deadline=None if left is None else bench.now + left)
    assert (refusal.value.reason, refusal.value.in_time) == ("queue_full", in_time)
    assert refusal.value.retry_after == 80 + 20 * 80 + 20
    bench.call(*range(5))
    assert bench.batcher.waiting == QUEUE_SIZE


@pytest.mark.parametrize("count", [0, 1, 3])
def test_unused_ticket_gives_back(bench: Bench, count: int) -> None:
    """A ticket that is left unused gives its places back, also when another number of items is refused as a bug."""
    with bench.batcher.admit(QUEUE_SIZE):
        assert bench.batcher.waiting == QUEUE_SIZE
    with pytest.raises(ValueError, match="as many items as were admitted"), bench.batcher.admit(2) as ticket:
        ticket.submit([1] * count)
    assert bench.batcher.waiting == 0


def test_request_larger_than_queue_is_invalid(bench: Bench) -> None:
    """A request that the empty queue could not hold is invalid and names its field."""
    with pytest.raises(InvalidInput, match="81 pictures in one request; the limit is 80") as refusal:
        bench.batcher.admit(QUEUE_SIZE + 1)
    assert refusal.value.field == "images"


@pytest.mark.parametrize("left", [20.0, threading.TIMEOUT_MAX * 2, float("inf")])
def test_deadline_out_of_reach_is_refused(bench: Bench, left: float) -> None:
    """A request is refused, before anything runs, if its deadline cannot be met, and answered if it just can."""
    with pytest.raises(Overloaded, match=r"would take 20000.0 ms; .* leaves 19000.0 ms") as refusal:
        bench.batcher.admit(1, deadline=bench.now + 19)
    assert (refusal.value.reason, refusal.value.in_time, refusal.value.retry_after) == ("deadline", False, 20)
    assert (bench.batcher.waiting, bench.batches) == (0, [])
    bench.free()
    assert submit(bench.batcher, [1], deadline=bench.now + left).results == [2]


@pytest.mark.parametrize("ahead", [0, 8])
@pytest.mark.parametrize(("count", "seconds"), [(1, 20), (2, 30), (3, 80), (4, 80), (5, 80 + 20), (9, 80 + 80 + 20)])
def test_prediction_counts_batches(bench: Bench, ahead: int, count: int, seconds: float) -> None:
    """The predicted time is that of the batches that those ahead and the request fill, each by its bucket."""
    bench.batcher.admit(ahead)
    assert bench.predicted(count) == ahead / 4 * 80 + seconds


def test_prediction_counts_running_batch(bench: Bench) -> None:
    """The predicted time counts what is left of the batch that runs, which is never less than nothing."""
    bench.busy(0, 1)
    bench.call(0, 1, 2)
    assert bench.predicted(2) == 30 + 80 + 20
    bench.now += 10
    assert bench.predicted(2) == 20 + 80 + 20
    bench.now += 600
    assert bench.predicted(2) == 80 + 20


@only_direct
@pytest.mark.parametrize(("seconds", "cost"), [(70.0, 30.0), (0.0, 16.0)])
def test_costs_are_learned(bench: Bench, seconds: float, cost: float) -> None:
    """A batch that took another time than its bucket's cost moves that cost, and no other, by a fifth."""
    bench.seconds = seconds
    bench.free()
    submit(bench.batcher, [1])
    assert [bench.predicted(count) for count in (1, 2, 4)] == pytest.approx([cost, 30.0, 80.0])


def test_expired_request_never_runs(bench: Bench) -> None:
    """A request whose deadline passed when its turn comes is never run, gets DeadlineExceeded, frees its places."""
    bench.busy(0)
    expired, other = bench.call(*range(6), left=1000), bench.call(9)
    bench.now += 1000
    bench.free()
    assert isinstance(expired.failure(), DeadlineExceeded)
    assert other.answer().results == [18]
    assert (bench.batches, bench.batcher.waiting) == ([[0], [9]], 0)


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize(("left", "leaves"), [(0, False), (0.05, False), (0, True), (1000, True)])
def test_caller_goes(bench: Bench, left: float, *, leaves: bool, runs: bool) -> None:
    """A caller that leaves or whose deadline passes hears it at once, never runs if it waited, and harms no other."""
    bench.busy(0)
    other, gone = bench.call(1, 2), bench.call(3, 4, 5, left=1000, held=True)
    if runs:
        bench.gate.release()
        bench.wait()
    bench.now += 1000 - left
    if leaves:
        gone.leave()
    gone.go.set()
    assert isinstance(gone.failure(), Cancelled if left == 1000 else DeadlineExceeded)
    assert bench.batcher.waiting == (0 if runs else 2)
    bench.free()
    assert other.answer().results == [2, 4]
    assert bench.batcher.drain(WAIT)
    assert bench.batches == [[0], [1, 2, 3, 4] if runs else [1, 2]]


@only_thread
@pytest.mark.parametrize("error", [Cancelled, Unavailable, DeadlineExceeded, InferenceFailed])
def test_rest_of_request_never_runs(bench: Bench, error: type[Exception]) -> None:
    """A request that leaves, is closed, expires or fails with its first part gets one error; its rest never runs."""
    bench.batcher.admit(3)
    call, other = bench.busy(*range(9), left=1000), bench.call(9)
    assert bench.batcher.waiting == 3 + 5 + 1
    bench.now += 1000 if error is DeadlineExceeded else 0
    bench.answer = double if error is DeadlineExceeded else lambda items: items[1:]
    way = Job(call.leave if error is Cancelled else bench.batcher.close if error is Unavailable else bench.free)
    assert isinstance(call.failure(), error)
    bench.free()
    other.failure()  # its turn has come and gone
    way.answer()
    assert bench.batches == [[0, 1, 2, 3]] + [[9]] * (error is not Unavailable)
    assert bench.batcher.waiting == 3 * (error is not Unavailable)


def test_caller_had_left(bench: Bench) -> None:
    """A caller that left before it submits gets Cancelled; nothing is queued or run, its places are free."""
    bench.free()
    with pytest.raises(Cancelled):
        submit(bench.batcher, [1], watch=lambda _: False)
    assert submit(bench.batcher, [2]).results == [4]
    assert (bench.batches, bench.batcher.waiting) == ([[2]], 0)


def test_late_wake_does_nothing(bench: Bench) -> None:
    """A wake after the normal end, and another, raise nothing and disturb no later request."""
    bench.free()
    call = bench.call(1)
    assert call.answer().results == [2]
    call.leave()
    call.leave()
    assert submit(bench.batcher, [2]).results == [4]


@pytest.mark.parametrize("change", [-1, 0, 1])
def test_failed_batch_fails_its_callers(bench: Bench, change: int) -> None:
    """A run that raises, or gives too few or too many results, fails its batch's callers with the cause, no others."""
    bench.answer = lambda items: [0] * (len(items) + change // abs(change)) if 13 in items else double(items)
    first, bad, same, after = bench.busy(0), bench.call(13), bench.call(1, 2, 3), bench.call(4)
    bench.free()
    for failure in (bad.failure(), same.failure()):
        assert isinstance(failure, InferenceFailed)
        assert isinstance(failure.__cause__, InferenceFailed if change else ZeroDivisionError)
    assert (first.answer().results, after.answer().results) == ([0], [8])


@only_thread
def test_failed_request_frees_once(bench: Bench) -> None:
    """A caller that leaves just as its batch fails frees the places of its rest once, not those of others."""
    bench.batcher.admit(5)
    gone = bench.busy(*range(6))

    def leave(frame: FrameType, *_: object) -> None:
        if frame.f_code.co_name == "fail":  # the batch has failed, the caller is not told yet
            gone.leave()
            gone.join(0.2)

    bench.trace, bench.answer = leave, lambda items: items[1:]
    bench.free()
    assert (gone.failure() is None, bench.batcher.waiting) == (False, 5)


@pytest.mark.parametrize("direct", [False, True])
def test_observer_that_raises(*, direct: bool) -> None:
    """An observer that raises does not end the batcher: it goes on to answer."""
    batcher = Batcher(double, costs=COSTS, queue_size=1, direct=direct, on_batch=lambda batch: [][batch.size])
    for _ in range(2):
        with pytest.raises(InferenceFailed):
            submit(batcher, [1])
    Job(batcher.close).answer()


def test_idle_batcher_runs(bench: Bench) -> None:
    """When nothing runs, a batch runs on its caller's thread with direct, else on the thread of the given name."""
    bench.free()
    assert [submit(bench.batcher, [item]).results for item in range(3)] == [[0], [2], [4]]
    assert bench.runners == [threading.current_thread() if bench.direct else bench.thread] * 3


@only_direct
def test_direct_caller_runs_one_batch(bench: Bench) -> None:
    """With direct, the instance's thread runs what gathers while a caller runs its batch, and the caller's own rest."""
    first, second = bench.busy(*range(6)), bench.call(6)
    bench.free()
    assert (first.answer().results, second.answer().results) == (double(range(6)), [12])
    assert (bench.batches, bench.runners) == ([[0, 1, 2, 3], [4, 5, 6]], [first, bench.thread])


def test_times_are_told(bench: Bench) -> None:
    """An outcome tells the seconds in the queue, those from first batch to last, and the size of the last."""
    bench.seconds = 2.0
    calls = [bench.busy(0), bench.call(*range(5))]
    bench.now += 1.0
    calls.append(bench.call(6, 7))
    bench.free()
    told = [call.answer() for call in calls]
    assert [(one.queue_seconds, one.run_seconds, one.batch_size) for one in told] == [(0, 3, 1), (3, 4, 3), (4, 2, 3)]


def test_batches_are_observed(bench: Bench) -> None:
    """The observer is told of every batch: its items, the seconds of its run, the items left waiting."""
    bench.seconds = 0.5
    calls = [bench.busy(0), bench.call(*range(5)), bench.call(6)]
    bench.free()
    assert [call.answer().batch_size for call in calls] == [1, 2, 2]
    assert bench.seen == [BatchRun(1, 0.5, 6), BatchRun(4, 0.5, 2), BatchRun(2, 0.5, 0)]


def test_drain_waits(bench: Bench) -> None:
    """A drain admits nothing more and ends with the last that was admitted; one that runs out of time says so."""
    calls = [bench.busy(0), bench.call(1)]
    drain = bench.ending(lambda: bench.batcher.drain(600))
    bench.gate.release()
    bench.wait()
    assert (bench.batcher.drain(0.01), drain.is_alive()) == (False, True)
    bench.free()
    assert drain.answer()
    assert [call.answer().results for call in calls] == [[0], [2]]


@pytest.mark.parametrize("used", [False, True])
def test_drain_waits_for_tickets(bench: Bench, *, used: bool) -> None:
    """A drain waits for a ticket too, until it is left unused or its request is answered."""
    bench.free()
    with bench.batcher.admit(2) as ticket:
        drain = bench.ending(lambda: bench.batcher.drain(600))
        assert drain.is_alive()
        assert not used or ticket.submit([1, 2]).results == [2, 4]
    assert drain.answer()


def test_close_answers_what_waits(bench: Bench) -> None:
    """A close answers at once what waits with Unavailable, then waits for the batch that runs, which is answered."""
    first, second = bench.busy(0), bench.call(*range(6))
    close = Job(bench.batcher.close)
    assert isinstance(second.failure(), Unavailable)
    close.join(0.05)
    assert close.is_alive()
    bench.free()
    assert first.answer().results == [0]
    close.answer()
    assert (bench.batches, bench.batcher.waiting, bench.thread.is_alive()) == ([[0]], 0, False)


def test_close_is_for_good(bench: Bench) -> None:
    """After a close the thread has ended, nothing is admitted, a ticket is refused, and a second close does nothing."""
    with bench.batcher.admit(1) as ticket:
        Job(bench.batcher.close).answer()
        for refused in (lambda: ticket.submit([1]), lambda: bench.batcher.admit(1)):
            with pytest.raises(Unavailable):
                refused()
    Job(bench.batcher.close).answer()
    assert not bench.thread.is_alive()


@only_direct
def test_close_before_direct_caller_runs(bench: Bench) -> None:
    """A close that comes between a direct caller's submission and its batch answers the caller and ends."""
    call = bench.call(1, held=True)
    close = bench.ending(bench.batcher.close)
    call.go.set()
    assert isinstance(call.failure(), Unavailable)
    close.answer()


@only_direct
def test_close_waits_for_direct_caller(bench: Bench) -> None:
    """A close waits for the batch of a direct caller that came just as the instance's thread went to rest."""
    resting, go = threading.Event(), threading.Event()

    def hold(frame: FrameType, event: str, found: object) -> Any:  # noqa: ANN401 - as sys.settrace has it
        if (frame.f_code.co_name, event, found) == ("_take", "return", []):
            resting.set()
            go.wait(WAIT)
        return hold

    bench.trace = hold
    bench.busy(0)
    bench.call(1)
    bench.gate.release(2)
    bench.wait()
    assert resting.wait(WAIT)
    bench.busy(2)
    close = bench.ending(bench.batcher.close)
    go.set()
    close.join(0.2)
    assert close.is_alive()


def test_ticket_is_used_once(bench: Bench) -> None:
    """A second submission of a ticket is a bug and runs nothing; a used ticket gives no place back a second time."""
    bench.free()
    bench.batcher.admit(5)
    with bench.batcher.admit(1) as ticket:
        ticket.submit([1])
        with pytest.raises(ValueError, match="once"):
            ticket.submit([1])
    assert (bench.batches, bench.batcher.waiting) == ([[1]], 5)
