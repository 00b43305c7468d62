import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest

from service.batcher import Batcher, BatchRun
from service.costs import Costs
from service.errors import DeadlineExceeded, InferenceFailed, InvalidInput, Overloaded, Unavailable
from service.requests import Pending, Queue
from tests.fakes import FAR, QUEUE_SIZE, WAIT, Bench, Caller, Job, double


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a fresh bench; in the end every thread of it ends, and every request was told once if it did not leave."""
    bench = Bench(**getattr(request, "param", {}))
    yield bench
    bench.free()
    Job(bench.batcher.close).answer()
    assert not any(thread.is_alive() for thread in bench.threads)
    assert all(len(call.tellers) <= 1 and (call.left or call.told) for call in bench.calls)


def benches(**options: dict[str, object]) -> pytest.MarkDecorator:
    """Run a test on a bench of each of these options, by name."""
    return pytest.mark.parametrize("bench", options.values(), ids=options.keys(), indirect=True)


either = benches(thread={}, direct={"direct": FAR})
direct = benches(direct={"direct": FAR})
two = benches(two={"instances": 2})


def bad(items: Sequence[int]) -> list[int]:
    """Give too few results."""
    return double(items)[1:]


# Batches.


@either
def test_next_batch_is_what_gathered(bench: Bench) -> None:
    """What comes while a batch runs is the next batch, in the order of arrival, up to the largest bucket."""
    first, _ = bench.busy(0)
    calls = [first, bench.call(1), bench.call(2, 3), bench.call(4), bench.call(5, 6)]
    bench.free()
    assert [call.results() for call in calls] == [[0], [2], [4, 6], [8], [10, 12]]
    assert (bench.ran, bench.batcher.max_batch_size) == ([[0], [1, 2, 3, 4], [5, 6]], 4)


@either
def test_large_request_is_split(bench: Bench) -> None:
    """A request larger than the largest batch is run in parts, shares batches, and is answered whole, in order."""
    first, _ = bench.busy(0)
    calls = [first, bench.call(*range(1, 11)), bench.call(11, 12, 13)]
    bench.free()
    assert [call.results() for call in calls] == [[0], double(range(1, 11)), [22, 24, 26]]
    assert bench.ran == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13]]


def test_company_that_costs_nothing() -> None:
    """A request that may be late runs with others all the same where a batch of them takes no longer than its own."""
    queue = Queue[int, int]()
    for deadline in (0.5, None):
        queue.add(Pending([0], deadline, 0.0, lambda _: None))
    assert len(queue.take(2, 0.0, Costs({2: 1.0}), lambda _: None)) == 2


def test_start_returns(bench: Bench) -> None:
    """A start returns while its batch runs and while it waits; nobody is told before it is over."""
    calls = [bench.call(1), bench.call(2)]
    bench.begun()
    assert [call.told for call in calls] == [False, False]


@pytest.mark.parametrize("unruly", [False, True])
@benches(thread={}, direct={"direct": FAR}, two={"instances": 2}, both={"instances": 2, "direct": FAR})
def test_many_callers_get_their_own(bench: Bench, *, unruly: bool) -> None:
    """Of 16 threads' requests each gets its own results once, or an error if unruly; no place is lost."""

    def work(number: int) -> None:
        numbers = random.Random(number)
        for _ in range(150):
            items = [numbers.randrange(2000) for _ in range(numbers.randint(1, 5))]
            left = numbers.choice([0.01, 0.03, FAR]) if unruly else FAR
            try:
                call = bench.call(*items, left=left, alone=numbers.random() < 0.5)
                if unruly and numbers.random() < 0.2:
                    bench.leave(call)
                else:
                    assert call.results() == double(items)
            except (Overloaded, DeadlineExceeded, InferenceFailed):
                assert unruly

    if unruly:
        bench.seconds, bench.answer = 0.001, lambda items: double(items if all(item % 20 for item in items) else [])
    bench.free()
    for job in [Job(lambda number=number: work(number)) for number in range(16)]:  # type: ignore[misc]
        job.answer()
    assert max(len(items) for items in bench.ran) == 4
    assert (bench.batcher.drain(WAIT), bench.batcher.waiting) == (True, 0)


def test_times_are_told(bench: Bench) -> None:
    """An outcome tells the seconds in the queue, those from first batch to last, and the size of the last."""
    bench.seconds = 2.0
    calls = [bench.busy(0)[0], bench.call(*range(5))]
    bench.now += 1.0
    calls.append(bench.call(6, 7))
    bench.free()
    told = [call.answer() for call in calls]
    assert [(one.queue_seconds, one.run_seconds, one.batch_size) for one in told] == [(0, 3, 1), (3, 4, 3), (4, 2, 3)]


def test_queue_seconds_are_never_negative(bench: Bench) -> None:
    """A request that joins a batch while it forms has waited no less than no time."""
    late = list[Job[Caller]]()

    def join() -> None:  # just when the instance has looked at the clock, before or after it has the lock
        if threading.current_thread() in bench.threads:
            bench.on_clock = lambda: None
            bench.now += 1.0
            late.append(Job(lambda: bench.call(2)))
            late[0].join(0.2)

    bench.on_clock = join
    bench.busy(1)
    bench.free()
    assert late[0].answer().answer().queue_seconds >= 0


def test_batches_are_observed(bench: Bench) -> None:
    """The observer is told of every batch: its items, the seconds of its run, the items left waiting."""
    bench.seconds = 0.5
    calls = [bench.busy(0)[0], bench.call(*range(5)), bench.call(6)]
    bench.free()
    assert [call.answer().batch_size for call in calls] == [1, 2, 2]
    assert bench.seen == [BatchRun(1, 0.5, 6), BatchRun(4, 0.5, 2), BatchRun(2, 0.5, 0)]


def test_observer_is_told_first(bench: Bench) -> None:
    """The observer knows of a batch when its callers are told."""
    first, batch = bench.busy(0)
    seen = list[int]()
    first.then = lambda: seen.append(len(bench.seen))
    batch.end()
    first.answer()
    assert seen == [1]


def test_threads_are_prepared() -> None:
    """Each instance's thread is prepared first, by its number, before it runs a batch, and no other thread is."""
    prepared, ran, numbers = list[threading.Thread](), list[threading.Thread](), list[int]()

    def run(items: Sequence[int]) -> list[int]:
        assert threading.current_thread() in prepared
        ran.append(threading.current_thread())
        return double(items)

    def prepare(number: int) -> None:
        numbers.append(number)
        prepared.append(threading.current_thread())

    call = Caller([1, 2, 3])
    batcher: Batcher[int, int] = Batcher([run] * 2, costs={1: 1.0}, queue_size=9, on_thread=prepare)
    with batcher.admit(3) as ticket:
        ticket.start([1, 2, 3], call)
    assert call.results() == [2, 4, 6]
    Job(batcher.close).answer()
    assert len(prepared) == len(set(prepared)) == 2
    assert set(ran) <= set(prepared)
    assert sorted(numbers) == [0, 1]


# Several instances.


@two
def test_instances_run_side_by_side(bench: Bench) -> None:
    """Two instances run a batch each at the same time, on threads of their own that are called by their numbers."""
    first, second = bench.busy(1), bench.busy(2)
    assert sorted(batch.thread.name for _, batch in (first, second)) == [f"{bench.name}-0", f"{bench.name}-1"]
    bench.call(3)
    second[1].end()
    assert second[0].results() == [4]
    assert (bench.begun().number, first[0].told) == (second[1].number, False)


@benches(two={"instances": 2}, three={"instances": 3})
def test_instances_share_a_large_request(bench: Bench) -> None:
    """A large request is shared by the idle instances, and answered in order whichever of them ends first."""
    call = bench.call(*range(10))
    batches = [bench.begun() for _ in bench.threads]
    assert [batch.items for batch in sorted(batches, key=lambda batch: batch.items)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ][: len(batches)]
    for batch in sorted(batches, key=lambda batch: batch.items, reverse=True):
        batch.end()
    bench.free()
    assert call.results() == double(range(10))


@two
def test_idle_instance_is_woken_for_the_rest(bench: Bench) -> None:
    """An idle instance is woken for what a batch leaves in the queue, also when it has been idle for long."""
    bench.busy(0)
    other, batch = bench.busy(1)
    bench.call(2, 3, 4)
    bench.call(5, 6)
    batch.end()
    assert bench.begun().items == [2, 3, 4, 5]
    bench.batches[0].end()
    assert bench.begun().items == [6]
    assert other.results() == [2]


@two
def test_failed_part_fails_the_request_once(bench: Bench) -> None:
    """A shared request fails once, by the part that fails; its other part ends, its rest never runs."""
    call, other = bench.call(*range(10)), bench.call(10)
    first, second = bench.begun(), bench.begun()
    first.end(bad)
    assert isinstance(call.failure(), InferenceFailed)
    assert bench.begun().items == [10]
    second.end()
    bench.free()
    assert other.results() == [20]
    assert (len(bench.batches), bench.batcher.waiting) == (3, 0)


@two
def test_both_parts_fail(bench: Bench) -> None:
    """A shared request of which both parts fail is told once, and no place is freed twice."""
    bench.batcher.admit(5)
    call = bench.call(*range(8))
    first, second = bench.begun(), bench.begun()
    first.end(bad)
    call.failure()
    second.end(bad)
    bench.free()
    assert (bench.call(10).results(), bench.batcher.waiting) == ([20], 5)


@two
def test_shared_request_leaves(bench: Bench) -> None:
    """A caller that leaves while two instances run its parts is not told, its rest never runs, others are served."""
    call, other = bench.call(*range(10)), bench.call(10)
    bench.begun()
    bench.begun()
    bench.leave(call)
    assert bench.batcher.waiting == 1
    bench.free()
    assert other.results() == [20]
    assert bench.batcher.drain(WAIT)
    assert (bench.ran[2:], call.told) == ([[10]], False)


# Whose turn comes too late.


@either
def test_expired_request_never_runs(bench: Bench) -> None:
    """A request whose deadline passed when its turn comes is never run, gets DeadlineExceeded, frees its places."""
    _, batch = bench.busy(0)
    expired, other = bench.call(*range(6), left=1000), bench.call(9)
    bench.now += 1000
    batch.end()
    assert isinstance(expired.failure(), DeadlineExceeded)
    bench.free()
    assert other.results() == [18]
    assert (bench.ran, bench.batcher.waiting) == ([[0], [9]], 0)


@two
def test_shared_request_expires(bench: Bench) -> None:
    """A request that expires while a part of it runs is told so once; its rest never runs."""
    call = bench.call(*range(12), left=1000)
    first, second = bench.begun(), bench.begun()
    bench.now += 1000
    first.end()
    assert isinstance(call.failure(), DeadlineExceeded)
    second.end()
    assert bench.batcher.drain(WAIT)
    assert (len(bench.batches), bench.batcher.waiting) == (2, 0)


@pytest.mark.parametrize("error", [None, Unavailable, DeadlineExceeded, InferenceFailed])
def test_rest_of_request_never_runs(bench: Bench, error: type[Exception] | None) -> None:
    """A request that leaves, is closed, expires or fails with its first part is told once; its rest never runs."""
    bench.batcher.admit(3)
    call, batch = bench.busy(*range(9), left=1000)
    other = bench.call(9)
    assert bench.batcher.waiting == 3 + 5 + 1
    close = bench.ending(bench.batcher.close) if error is Unavailable else None
    bench.now += 1000 if error is DeadlineExceeded else 0
    if error is None:
        bench.leave(call)
    batch.end(bad if error is InferenceFailed else None)
    assert error is None or isinstance(call.failure(), error)
    bench.free()
    if close:
        assert isinstance(other.failure(), Unavailable)
        close.answer()
    else:
        assert other.results() == [18]
    assert bench.ran == [[0, 1, 2, 3]] + [[9]] * (close is None)
    assert (bench.batcher.waiting, call.told) == (3, error is not None)


# Callers who leave.


@either
def test_caller_leaves_the_queue(bench: Bench) -> None:
    """A caller that leaves while it waits frees its places at once, is never run and not told, and harms no other."""
    bench.busy(0)
    other, gone, last = bench.call(1, 2), bench.call(3, 4, 5), bench.call(6)
    bench.leave(gone)
    assert bench.batcher.waiting == 3
    bench.free()
    assert (other.results(), last.results()) == ([2, 4], [12])
    assert (bench.ran, gone.told) == ([[0], [1, 2, 6]], False)


@either
def test_caller_leaves_its_batch(bench: Bench) -> None:
    """A caller that leaves while its batch runs is not told; those that share the batch get their results."""
    _, batch = bench.busy(0)
    other, gone = bench.call(1, 2), bench.call(3, 4, 5)
    batch.end()
    bench.begun()
    bench.leave(gone)
    assert bench.batcher.waiting == 0
    bench.free()
    assert other.results() == [2, 4]
    assert bench.batcher.drain(WAIT)
    assert (bench.ran, gone.told) == ([[0], [1, 2, 3, 4]], False)


@pytest.mark.parametrize("answer", [double, bad])
def test_leaving_late_does_nothing(bench: Bench, answer: Callable[[list[int]], list[int]]) -> None:
    """Who leaves after the end, or twice, raises nothing, frees nobody's place and disturbs no later request."""
    bench.batcher.admit(5)
    call, batch = bench.busy(*range(4))
    batch.end(answer)
    if answer is bad:
        call.failure()
    else:
        call.answer()
    for _ in range(2):
        bench.batcher.leave(call.pending)
    bench.free()
    assert bench.call(1).results() == [2]
    assert (bench.batcher.waiting, bench.batcher.drain(0)) == (5, False)


def test_leaving_twice(bench: Bench) -> None:
    """Who leaves the queue twice frees its places once."""
    bench.busy(0)
    bench.batcher.admit(5)
    gone = bench.call(1, 2)
    bench.leave(gone)
    bench.leave(gone)
    assert bench.batcher.waiting == 5


def test_failed_request_frees_once(bench: Bench) -> None:
    """A caller that leaves just as its batch fails is told once and frees the places of its rest once."""
    bench.batcher.admit(5)
    _, batch = bench.busy(0)
    first, gone = bench.call(1), bench.call(*range(2, 9))
    first.then = lambda: bench.batcher.leave(gone.pending)  # the batch has failed, this caller is not told yet
    batch.end()
    bench.begun().end(bad)
    assert isinstance(gone.failure(), InferenceFailed)
    assert bench.batcher.waiting == 5


# Callers who are told.


@either
def test_told_outside_the_lock(bench: Bench) -> None:
    """A caller that is told may bring its next request, leave others and look at the queue."""
    first, batch = bench.busy(0)
    gone = bench.call(1)
    next_calls = list[Caller]()

    def go_on() -> None:
        bench.leave(gone)
        next_calls.append(bench.call(2))

    first.then = go_on
    batch.end()
    bench.begun()
    bench.free()
    assert next_calls[0].results() == [4]
    assert bench.ran == [[0], [2]]


@pytest.mark.parametrize("answer", [double, bad])
def test_caller_that_raises(
    bench: Bench,
    answer: Callable[[list[int]], list[int]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who raises when told harms no other caller of its batch, and no later one; it is logged as the bug that it is."""
    monkeypatch.setattr(logging.getLogger("saccade"), "propagate", True)
    _, batch = bench.busy(0)
    calls = [bench.call(1), bench.call(2), bench.call(3)]
    calls[1].then = lambda: 1 // 0
    batch.end()
    bench.begun().end(answer)
    if answer is bad:
        assert [type(call.failure()) for call in calls] == [InferenceFailed] * 3
    else:
        assert [call.results() for call in calls] == [[2], [4], [6]]
    bench.free()
    assert bench.call(4).results() == [8]
    assert [record.getMessage() for record in caplog.records] == ["a caller could not be told. This is a bug."]


def test_caller_that_raises_at_a_close(bench: Bench) -> None:
    """Who raises when it is told of a close keeps neither the others nor the close from their end."""
    bench.busy(0)
    calls = [bench.call(number) for number in (1, 2)]
    calls[0].then = lambda: 1 // 0
    close = bench.ending(bench.batcher.close)
    assert [type(call.failure()) for call in calls] == [Unavailable] * 2
    bench.free()
    close.answer()


# Admission.


@pytest.mark.parametrize(("left", "in_time"), [(None, True), (1760.0, True), (1759.9, False), (-1.0, False)])
def test_full_queue_refuses(bench: Bench, left: float | None, *, in_time: bool) -> None:
    """A request that does not fit beside what waits and is reserved is refused; it hears when to retry, if in time."""
    bench.busy(0, 1, 2, 3)
    bench.call(1, 2)
    bench.batcher.admit(73)
    with pytest.raises(Overloaded, match="75 pictures wait, 6 more are too many; the limit is 80") as refusal:
        bench.batcher.admit(6, deadline=None if left is None else bench.now + left)
    assert (refusal.value.reason, refusal.value.in_time) == ("queue_full", in_time)
    assert refusal.value.retry_after == 80 + 20 * 80 + 80  # a batch of four runs, so four are expected in its last
    bench.call(*range(5))
    assert bench.batcher.waiting == QUEUE_SIZE


def test_request_larger_than_queue_is_invalid(bench: Bench) -> None:
    """A request that the empty queue could not hold is invalid and names its field."""
    with pytest.raises(InvalidInput, match="81 pictures in one request; the limit is 80") as refusal:
        bench.batcher.admit(QUEUE_SIZE + 1)
    assert refusal.value.field == "images"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_unused_ticket_gives_back(bench: Bench, count: int) -> None:
    """A ticket that is left unused gives its places back, also when another number of items is refused as a bug."""
    with bench.batcher.admit(QUEUE_SIZE):
        assert bench.batcher.waiting == QUEUE_SIZE
    with pytest.raises(ValueError, match="as many items as were admitted"), bench.batcher.admit(2) as ticket:
        ticket.start([1] * count, Caller([]))
    assert (bench.batcher.waiting, bench.batcher.drain(0)) == (0, True)


def test_ticket_is_used_once(bench: Bench) -> None:
    """A second start of a ticket is a bug and runs nothing; a used ticket gives no place back a second time."""
    bench.free()
    bench.batcher.admit(5)
    with bench.batcher.admit(1) as ticket:
        call = Caller([1])
        ticket.start([1], call)
        with pytest.raises(ValueError, match="once"):
            ticket.start([1], call)
    assert call.results() == [2]
    assert (bench.ran, bench.batcher.waiting, len(call.tellers)) == ([[1]], 5, 1)


@pytest.mark.parametrize("left", [20.0, threading.TIMEOUT_MAX * 2, float("inf")])
def test_deadline_out_of_reach_is_refused(bench: Bench, left: float) -> None:
    """A request is refused, before anything runs, if its deadline cannot be met, and answered if it just can."""
    with pytest.raises(Overloaded, match=r"would take 20000.0 ms; .* leaves 19000.0 ms") as refusal:
        bench.batcher.admit(1, deadline=bench.now + 19)
    assert (refusal.value.reason, refusal.value.in_time, refusal.value.retry_after) == ("deadline", False, 20)
    assert (bench.batcher.waiting, bench.batches, bench.batcher.drain(0)) == (0, [], True)


@pytest.mark.parametrize("left", [20.0, threading.TIMEOUT_MAX * 2, float("inf")])
def test_deadline_in_reach(bench: Bench, left: float) -> None:
    """A request whose deadline can just be met is answered, and so is one whose deadline is as good as none."""
    bench.free()
    assert bench.call(1, left=left).results() == [2]


def test_least_wait_is_what_admission_allows(bench: Bench) -> None:
    """One item is refused below the least wait and admitted at it; while an instance is idle there is none."""
    assert bench.batcher.least_wait == 0
    bench.busy(0)
    bench.call(1, 2, 3)
    least = bench.batcher.least_wait
    with pytest.raises(Overloaded):
        bench.batcher.admit(1, deadline=bench.now + least - 0.001)
    with bench.batcher.admit(1, deadline=bench.now + least):
        pass
    bench.free()


@pytest.mark.parametrize(("ahead", "seconds"), [(0, 20), (1, 30), (4, 80 + 20), (8, 160 + 20)])
def test_prediction_counts_places(bench: Bench, ahead: int, seconds: float) -> None:
    """The predicted time counts the places that are reserved as if their items waited."""
    bench.batcher.admit(ahead)
    assert bench.predicted(1) == seconds


@either
def test_prediction_counts_running_batch(bench: Bench) -> None:
    """The predicted time counts what is left of the batch that runs, which is never less than nothing."""
    bench.busy(0, 1)
    bench.call(0, 1, 2)
    assert bench.predicted(2) == 30 + 80 + 30
    bench.now += 10
    assert bench.predicted(2) == 20 + 80 + 30
    bench.now += 600
    assert bench.predicted(2) == 80 + 30


@direct
def test_prediction_forgets_the_batch_that_ran(bench: Bench) -> None:
    """Of a batch that ended sooner than predicted nothing is counted any more."""
    job = Job(lambda: bench.call(1, 2, 3, alone=True))
    bench.begun().end()
    job.answer()
    assert bench.predicted(1) == 20


@pytest.mark.parametrize(("seconds", "cost"), [(70.0, 30.0), (10.0, 18.0)])
def test_prediction_follows_what_batches_take(bench: Bench, seconds: float, cost: float) -> None:
    """What a batch took moves the cost of its bucket, so that the next request is predicted by it."""
    bench.seconds = seconds
    bench.busy(1)
    bench.call(2)
    bench.batches[0].end()
    bench.begun()
    assert bench.predicted(4) == pytest.approx(cost + 80)


def test_what_refuses_everything_is_tried(bench: Bench) -> None:
    """Where nothing ran for five seconds as all was refused, one request is admitted; its batch sets costs right."""
    bench.seconds = 4.0  # not 20, as warm-up measured
    for _ in range(2):
        with pytest.raises(Overloaded):
            bench.call(0, left=10)
        bench.now += 2
    with pytest.raises(Overloaded):
        bench.call(0, left=10)
    bench.now += 1
    call = bench.call(1, left=10)
    with pytest.raises(Overloaded):
        bench.call(0, left=10)  # one at a time
    bench.begun().end()
    assert call.results() == [2]
    bench.free()
    late = time.monotonic() + WAIT
    while bench.batcher.least_wait:
        assert time.monotonic() < late, "its thread never rested"
    assert bench.call(3, left=10).results() == [6]


def test_what_ran_meanwhile_begins_the_five_seconds_anew(bench: Bench) -> None:
    """Where a batch ran since the first refusal, what is predicted to be late is refused, not tried."""
    with pytest.raises(Overloaded):
        bench.call(0, left=10)
    bench.now += 2.5
    bench.seconds = 10.0
    call, batch = bench.busy(1)
    batch.end()
    assert call.results() == [2]
    with pytest.raises(Overloaded):
        bench.call(0, left=10)


@two
def test_prediction_of_instances(bench: Bench) -> None:
    """Nothing is counted of what runs while an instance is idle, else what is left of the batch that ends first."""
    bench.busy(*range(4))
    assert bench.predicted(1) == 20
    bench.now += 5
    bench.busy(9)
    assert bench.predicted(1) == 20 + 20
    bench.now += 15
    assert bench.predicted(1) == 5 + 20


@two
def test_prediction_shares_what_waits(bench: Bench) -> None:
    """What waits is predicted to be shared by the instances."""
    bench.batcher.admit(8)
    assert bench.predicted(1) == 80 + 20


@either
def test_prediction_while_preparing(bench: Bench) -> None:
    """The seconds until a request's items are ready count where they are more than what runs before it."""
    bench.busy(1, 2)
    assert [bench.predicted(1, prepare) for prepare in (0, 30, 31, 500)] == [60, 60, 61, 530]
    bench.batcher.admit(4)
    assert [bench.predicted(1, prepare) for prepare in (110, 111)] == [140, 141]


# Failures.


@either
@pytest.mark.parametrize("change", [-1, 0, 1])
def test_failed_batch_fails_its_callers(bench: Bench, change: int) -> None:
    """A run that raises, or gives too few or too many results, fails its batch's callers with the cause, no others."""
    bench.answer = lambda items: [0] * (len(items) + change // abs(change)) if 13 in items else double(items)
    first, _ = bench.busy(0)
    failed, after = [bench.call(13), bench.call(1, 2, 3)], bench.call(4)
    bench.free()
    for failure in (call.failure() for call in failed):
        assert isinstance(failure, InferenceFailed)
        assert isinstance(failure.__cause__, InferenceFailed if change else ZeroDivisionError)
    assert (first.results(), after.results()) == ([0], [8])


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_observer_that_raises(seconds: float) -> None:
    """An observer that raises does not end the batcher: it goes on to answer, whichever thread runs the batch."""
    batcher: Batcher[int, int] = Batcher(
        [double], costs={1: 1.0}, queue_size=1, direct=seconds, on_batch=lambda batch: [][batch.size]
    )
    for _ in range(2):
        call = Caller([1])
        with batcher.admit(1) as ticket:
            call.pending = ticket.start([1], call, alone=True)
        assert isinstance(call.failure(), InferenceFailed)
    Job(batcher.close).answer()


# Batches that run on the thread that brings them.


@benches(direct={"direct": 30.0})
@pytest.mark.parametrize(
    ("count", "alone", "here"),
    [(1, True, True), (2, True, True), (3, True, False), (5, True, False), (1, False, False)],
)
def test_direct(bench: Bench, count: int, *, alone: bool, here: bool) -> None:
    """A batch runs on the thread that brings a request which is alone, if it is predicted to take little enough."""
    bench.free()
    call = bench.call(*range(count), alone=alone)
    assert call.results() == double(range(count))
    assert bench.batches[0].thread is (threading.current_thread() if here else bench.threads[0])
    assert call.tellers == [bench.batches[0].thread]


@direct
def test_large_request_is_never_direct(bench: Bench) -> None:
    """A request that fills more than a batch does not hold the thread that brings it, however cheap it is."""
    bench.free()
    bench.call(*range(5), alone=True).answer()
    assert {batch.thread for batch in bench.batches} == {bench.threads[0]}


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_never_direct(seconds: float) -> None:
    """With 0 seconds allowed no batch runs on the thread that brings it, not even one that costs nothing."""
    batcher: Batcher[int, int] = Batcher([double], costs={1: seconds}, queue_size=1)
    call = Caller([1])
    with batcher.admit(1) as ticket:
        ticket.start([1], call, alone=True)
    call.answer()
    Job(batcher.close).answer()
    assert threading.current_thread() not in call.tellers


@direct
def test_direct_only_when_idle(bench: Bench) -> None:
    """A request that is alone and finds a batch running is queued like any other."""
    _, batch = bench.busy(0)
    call = bench.call(1, alone=True)
    assert not call.told
    bench.free()
    assert call.results() == [2]
    assert batch.thread is not bench.threads[0]
    assert bench.batches[1].thread is bench.threads[0]


@benches(direct={"direct": FAR, "instances": 2})
def test_direct_beside_a_busy_instance(bench: Bench) -> None:
    """While one instance runs a batch, another one may run a batch on the thread that brings it."""
    bench.call(0)
    bench.begun()
    job = Job(lambda: bench.call(1, alone=True))
    batch = bench.begun()
    assert (batch.items, batch.thread) == ([1], job)
    batch.end()
    assert job.answer().results() == [2]


@benches(direct={"direct": 20.0})
def test_direct_follows_what_batches_take(bench: Bench) -> None:
    """A model that has become slow runs no longer on the thread that brings a request."""
    bench.seconds = 70.0
    bench.free()
    for _ in range(2):
        bench.call(1, alone=True).answer()
    assert [batch.thread for batch in bench.batches] == [threading.current_thread(), bench.threads[0]]


@direct
def test_direct_runs_one_batch(bench: Bench) -> None:
    """What gathers while a caller runs its batch is run by the instance's thread: the caller is let go."""
    job = Job(lambda: bench.call(*range(4), alone=True))
    batch = bench.begun()
    second = bench.call(4, 5)
    batch.end()
    assert job.answer().results() == double(range(4))
    bench.begun().end()
    assert second.results() == [8, 10]
    assert [batch.thread for batch in bench.batches] == [job, bench.threads[0]]


@direct
def test_direct_request_expires(bench: Bench) -> None:
    """A request that expires before the thread that brings it has formed its batch is told there and never runs."""
    bench.free()
    with bench.batcher.admit(1, deadline=bench.now + 1000) as ticket:
        bench.on_clock = lambda: setattr(bench, "now", bench.now + 500)  # at its start and before its batch
        bench.now += 500
        call = Caller([1])
        ticket.start([1], call, alone=True)
    assert isinstance(call.failure(), DeadlineExceeded)
    assert call.tellers == [threading.current_thread()]
    assert bench.call(2, alone=True).results() == [4]
    assert bench.ran == [[2]]


# Drain and close.


@either
def test_drain_waits(bench: Bench) -> None:
    """A drain admits nothing more and ends with the last that was admitted; one that runs out of time says so."""
    first, batch = bench.busy(0)
    second = bench.call(1)
    drain = bench.ending(lambda: bench.batcher.drain(600))
    batch.end()
    bench.begun()
    assert (bench.batcher.drain(0.01), drain.is_alive()) == (False, True)
    bench.free()
    assert drain.answer()
    assert [call.results() for call in (first, second)] == [[0], [2]]


@pytest.mark.parametrize("used", [False, True])
def test_drain_waits_for_tickets(bench: Bench, *, used: bool) -> None:
    """A drain waits for a ticket too, until it is left unused or its request is over."""
    call = Caller([1, 2])
    with bench.batcher.admit(2) as ticket:
        drain = bench.ending(lambda: bench.batcher.drain(600))
        if used:
            ticket.start([1, 2], call)
            bench.begun()
        assert not bench.batcher.drain(0)
        assert drain.is_alive()
    if used:
        assert drain.is_alive()
        bench.free()
    assert drain.answer()
    assert call.told == used


@pytest.mark.parametrize("queued", [False, True])
def test_drain_does_not_wait_for_who_left(bench: Bench, *, queued: bool) -> None:
    """A drain is over when those who wait or run have left."""
    first, _ = bench.busy(0)
    calls = [first, bench.call(1)] if queued else [first]
    drain = bench.ending(lambda: bench.batcher.drain(600))
    for call in calls:
        bench.leave(call)
    assert drain.answer()


@either
def test_close_answers_what_waits(bench: Bench) -> None:
    """A close answers at once what waits with Unavailable, then waits for the batch that runs, which is answered."""
    first, _ = bench.busy(0)
    second = bench.call(*range(6))
    close = Job(bench.batcher.close)
    assert isinstance(second.failure(), Unavailable)
    close.join(0.05)
    assert close.is_alive()
    bench.free()
    assert first.results() == [0]
    close.answer()
    assert (bench.ran, bench.batcher.waiting) == ([[0]], 0)
    assert not any(thread.is_alive() for thread in bench.threads)


@benches(one={}, three={"instances": 3})
def test_close_is_for_good(bench: Bench) -> None:
    """After a close the threads have ended, nothing is admitted, a ticket is refused, another close does nothing."""
    with bench.batcher.admit(1) as ticket:
        Job(bench.batcher.close).answer()
        for refused in (lambda: ticket.start([1], Caller([1])), lambda: bench.batcher.admit(1)):
            with pytest.raises(Unavailable):
                refused()
    Job(bench.batcher.close).answer()
    assert not any(thread.is_alive() for thread in bench.threads)
    assert (bench.batcher.waiting, bench.batcher.drain(0)) == (0, True)


@two
def test_close_waits_for_every_instance(bench: Bench) -> None:
    """A close waits for the batches of all instances; a shared request that is wholly taken is answered."""
    call = bench.call(*range(8))
    first, second = bench.begun(), bench.begun()
    close = bench.ending(bench.batcher.close)
    first.end()
    close.join(0.05)
    assert close.is_alive()
    second.end()
    close.answer()
    assert call.results() == double(range(8))


@direct
def test_close_before_direct_batch(bench: Bench) -> None:
    """A close that comes between a direct caller's start and its batch answers the caller and ends."""
    closes = list[Job[None]]()

    def close(frame: FrameType, *_: object) -> None:  # as sys.settrace has it, which is of one thread only
        if frame.f_code.co_name == "_run_here":
            closes.append(bench.ending(bench.batcher.close))

    def bring() -> Caller:
        sys.settrace(close)
        return bench.call(1, alone=True)

    assert isinstance(Job(bring).answer().failure(), Unavailable)
    closes[0].answer()
    assert bench.batches == []


@direct
def test_close_waits_for_direct_caller(bench: Bench) -> None:
    """A close waits for the batch of a direct caller that came just as the instance's thread went to rest."""
    resting, go = threading.Event(), threading.Event()

    def hold(frame: FrameType, event: str, found: object) -> Any:  # noqa: ANN401 - as sys.settrace has it
        if (frame.f_code.co_name, event, found) == ("_take", "return", []):
            resting.set()
            go.wait(WAIT)
        return hold

    bench.call(0)
    bench.trace = hold
    bench.begun().end()
    assert resting.wait(WAIT)
    bench.trace = None
    _, batch = bench.busy(1)
    close = bench.ending(bench.batcher.close)
    go.set()
    close.join(0.2)
    assert close.is_alive()
    batch.end()
    close.answer()
