import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.batcher import Batcher, Ticket
from service.errors import Unavailable
from tests.fakes import WAIT, Caller, double, results

FOREVER = 3600.0
SHORT = 0.02


class Delayed:
    """A batcher with a queue delay, batches of at most two, and a list of what ran.

    Args:
        delay: the queue delay in seconds.
        direct: whether batches may run on the thread that brings them.
        instances: of the model.
        cost: seconds that each batch is predicted to take.
        most: items of the largest batch.
    """

    def __init__(
        self, delay: float, *, direct: bool = False, instances: int = 1, cost: float = 0.0, most: int = 2
    ) -> None:
        self.batches = list[list[int]]()
        self.hold: Callable[[list[int]], object] = lambda _: None  # called with the items of a batch that runs
        self.batcher: Batcher[int, int] = Batcher(
            [self._run] * instances,
            costs=dict.fromkeys((1, 2, most), cost),
            queue_size=8,
            queue_delay=delay,
            direct=float(direct),
        )

    def _run(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.hold(list(items))
        return double(items)

    def start(self, *items: int, alone: bool = False, left: float | None = None) -> Caller:
        """Admit and start a request, with a deadline in so many seconds if they are given."""
        deadline = None if left is None else time.monotonic() + left
        with self.batcher.admit(len(items), deadline=deadline) as ticket:
            return self.use(ticket, *items, alone=alone)

    def use(self, ticket: Ticket[int, int], *items: int, alone: bool = False) -> Caller:
        """Start a request that was admitted."""
        call = Caller(items)
        call.pending = ticket.start(items, call, alone=alone)
        return call

    def gathering(self) -> None:
        """Return when an instance waits for its batch to fill, which nothing shows to callers."""
        late = time.monotonic() + WAIT
        while self.batcher._gathering is None:
            assert time.monotonic() < late, "no instance waits for company"
            time.sleep(0.001)


@pytest.fixture
def delayed(request: pytest.FixtureRequest) -> Iterator[Delayed]:
    """Return a batcher whose queue delay no test outlasts, or with other options if the test gives some."""
    delayed = Delayed(**{"delay": FOREVER, **getattr(request, "param", {})})
    yield delayed
    delayed.batcher.close()


def options(**given: object) -> pytest.MarkDecorator:
    """Run a test with other options."""
    return pytest.mark.parametrize("delayed", [given], ids=[""], indirect=True)


either = pytest.mark.parametrize("delayed", [{}, {"direct": True}], ids=["thread", "direct"], indirect=True)


@either
@pytest.mark.parametrize("alone", [False, True])
def test_alone_never_waits(delayed: Delayed, *, alone: bool) -> None:
    """A request that is the only one under way runs at once, however long the queue delay, known as alone or not."""
    assert [delayed.start(number, alone=alone).results() for number in range(3)] == [[0], [2], [4]]


@either
def test_waits_for_others(delayed: Delayed) -> None:
    """A request waits for another one that was admitted, and both share a batch as soon as it is full."""
    with delayed.batcher.admit(1) as first, delayed.batcher.admit(1) as second, delayed.batcher.admit(1):
        calls = [delayed.use(first, 0)]
        delayed.gathering()
        assert (calls[0].told, delayed.batches) == (False, [])
        calls.append(delayed.use(second, 1))
        assert [call.results() for call in calls] == [[0], [2]]
    assert delayed.batches == [[0, 1]]


def test_full_batch_never_waits(delayed: Delayed) -> None:
    """A request that fills its batch runs at once, whoever else was admitted; so does one that fills several."""
    with delayed.batcher.admit(1):
        assert delayed.start(1, 2).results() == [2, 4]
        assert delayed.start(1, 2, 3, 4).results() == [2, 4, 6, 8]


def test_rest_waits(delayed: Delayed) -> None:
    """What a full batch leaves waits for others again."""
    with delayed.batcher.admit(3) as first, delayed.batcher.admit(1) as second:
        call = delayed.use(first, 1, 2, 3)
        delayed.gathering()
        assert (delayed.batches, call.told) == ([[1, 2]], False)
        assert delayed.use(second, 4).results() == [8]
    assert call.results() == [2, 4, 6]
    assert delayed.batches == [[1, 2], [3, 4]]


def test_request_fills_up(delayed: Delayed) -> None:
    """A request that is too large for what gathers fills that batch with its first, and its rest runs too."""
    with delayed.batcher.admit(1) as first, delayed.batcher.admit(3) as second:
        calls = [delayed.use(first, 0)]
        delayed.gathering()
        calls.append(delayed.use(second, 1, 2, 3))
        assert [call.results() for call in calls] == [[0], [2, 4, 6]]
    assert delayed.batches == [[0, 1], [2, 3]]


@either
def test_unused_ticket_is_company_no_more(delayed: Delayed) -> None:
    """A ticket that was given back keeps nobody waiting."""
    with delayed.batcher.admit(1):
        pass
    assert delayed.start(1).results() == [2]


@options(cost=1000.0)
def test_no_delay_beyond_a_deadline(delayed: Delayed) -> None:
    """A request waits for others no longer than its deadline leaves beside what its batch takes, and a quarter."""
    with delayed.batcher.admit(1):
        assert delayed.start(1, left=1240.0).results() == [2]


@options(cost=10.0, most=4)
def test_a_deadline_ends_the_wait_of_others(delayed: Delayed) -> None:
    """Where a request comes whose deadline cannot wait, what gathered runs at once, and it with them."""
    with delayed.batcher.admit(1) as first, delayed.batcher.admit(1):
        call = delayed.use(first, 1)
        delayed.gathering()
        assert delayed.start(2, left=13).results() == [4]
    assert call.results() == [2]
    assert delayed.batches == [[1, 2]]


@options(delay=SHORT)
def test_delay_passes(delayed: Delayed) -> None:
    """When the queue delay has passed, a request runs without those that did not come."""
    with delayed.batcher.admit(1):
        outcome = delayed.start(3).answer()
    assert results(outcome) == [6]
    assert outcome.queue_seconds >= SHORT
    assert delayed.batches == [[3]]


@options(delay=SHORT)
def test_delay_passes_while_another_batch_runs(delayed: Delayed) -> None:
    """A request whose queue delay has passed while a batch ran does not wait for company when that ends."""
    go = threading.Event()
    delayed.hold = lambda items: go.wait(WAIT) if 1 in items else None
    first = delayed.start(1, 2)
    with delayed.batcher.admit(1):
        second = delayed.start(3)
        late = time.monotonic() + SHORT
        while time.monotonic() < late:
            time.sleep(SHORT / 4)
        go.set()
        assert second.results() == [6]
    assert first.results() == [2, 4]
    assert delayed.batches == [[1, 2], [3]]


class Late:
    """A lock whose first wait is over at once; something happens just before that is known."""

    def __init__(self, lock: threading.Lock, happens: Callable[[], object]) -> None:
        self.release, self._lock, self._happens = lock.release, lock, [happens]

    def acquire(self, timeout: float = -1) -> bool:
        """Take it, but for the first time."""
        if self._happens:
            self._happens.pop()()
            return False
        return self._lock.acquire(timeout=timeout)


def test_delay_passes_as_the_batch_fills(delayed: Delayed) -> None:
    """A batch that fills just when the queue delay has passed runs full, and the next one gathers as it should."""
    (instance,) = delayed.batcher._instances
    with delayed.batcher.admit(1) as ticket, delayed.batcher.admit(1):
        instance.full = Late(instance.full, lambda: delayed.use(ticket, 2))  # type: ignore[assignment]
        assert delayed.start(1).results() == [2]
        third = delayed.start(3)
        delayed.gathering()
        assert not third.told
        assert delayed.start(4).results() == [8]
    assert delayed.batches == [[1, 2], [3, 4]]


@options(delay=0.0)
def test_no_delay(delayed: Delayed) -> None:
    """Without a queue delay a request runs at once, whoever else was admitted."""
    with delayed.batcher.admit(1):
        assert delayed.start(3).results() == [6]


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("direct", [False, True])
def test_many_callers_with_a_delay(*, direct: bool, instances: int) -> None:
    """Under a short delay every one of a thousand calls gets its own result, and nothing hangs."""
    delayed = Delayed(0.0005, direct=direct, instances=instances)

    def ask(number: int) -> int:
        return delayed.start(number, alone=number % 3 == 0).results()[0]

    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(ask, range(1000), timeout=WAIT)) == [2 * number for number in range(1000)]
    assert sum(len(batch) for batch in delayed.batches) == 1000
    delayed.batcher.close()


@pytest.mark.parametrize("delayed", [{}, {"instances": 2}], ids=["one", "two"], indirect=True)
def test_close_ends_the_wait(delayed: Delayed) -> None:
    """Closing answers a request that waits for others with Unavailable, and does not wait for the delay."""
    with delayed.batcher.admit(1), delayed.batcher.admit(1):
        call = delayed.start(1)
        delayed.gathering()
        delayed.batcher.close()
        assert isinstance(call.failure(), Unavailable)
    assert delayed.batches == []


@options(instances=2)
def test_one_instance_gathers(delayed: Delayed) -> None:
    """While one instance waits for its batch to fill, an idle one starts none: the requests share a batch."""
    with delayed.batcher.admit(1) as first, delayed.batcher.admit(1) as second, delayed.batcher.admit(1):
        calls = [delayed.use(first, 0)]
        delayed.gathering()
        calls.append(delayed.use(second, 1))
        assert [call.results() for call in calls] == [[0], [2]]
    assert delayed.batches == [[0, 1]]


@options(instances=2)
def test_instances_gather_in_turn(delayed: Delayed) -> None:
    """While one instance runs a full batch, the other one gathers and runs the next."""
    running, go = threading.Semaphore(0), threading.Event()

    def hold(items: list[int]) -> None:
        running.release()
        assert 1 not in items or go.wait(WAIT)

    delayed.hold = hold
    first = delayed.start(1, 2)
    assert running.acquire(timeout=WAIT)
    with delayed.batcher.admit(1) as ticket:
        second = delayed.start(3)
        assert delayed.use(ticket, 4).results() == [8]
    assert (second.results(), first.told) == ([6], False)
    go.set()
    assert first.results() == [2, 4]
    assert delayed.batches == [[1, 2], [3, 4]]


@options(instances=2)
def test_free_instance_takes_what_another_gathers(delayed: Delayed) -> None:
    """An instance that ends its batch while another one waits for company takes what there is and waits for none."""
    go = threading.Event()
    delayed.hold = lambda items: go.wait(WAIT) if 1 in items else None
    first = delayed.start(1, 2)
    with delayed.batcher.admit(1):
        second = delayed.start(3)
        delayed.gathering()
        go.set()
        assert second.results() == [6]
    assert first.results() == [2, 4]
    assert delayed.batches == [[1, 2], [3]]


@options(instances=2)
def test_what_runs_elsewhere_is_company(delayed: Delayed) -> None:
    """A request waits for others while one is under way, also if that one runs in another instance already."""
    running, go = threading.Event(), threading.Event()

    def hold(items: list[int]) -> None:
        if 1 in items:
            running.set()
            assert go.wait(WAIT)

    delayed.hold = hold
    first = delayed.start(1, 2)
    assert running.wait(WAIT)
    second = delayed.start(3)
    delayed.gathering()
    assert not second.told
    assert delayed.start(4).results() == [8]
    go.set()
    assert (first.results(), second.results()) == ([2, 4], [6])
    assert delayed.batches == [[1, 2], [3, 4]]


@either
def test_alone_after_one_left(delayed: Delayed) -> None:
    """A request that is alone never waits, also not where an instance still waits for the company of one that left."""
    with delayed.batcher.admit(1):
        gone = delayed.start(1)
        delayed.gathering()
        delayed.batcher.leave(gone.pending)
    assert delayed.start(2).results() == [4]


def test_company_that_goes(delayed: Delayed) -> None:
    """A request that waits for another one runs as soon as that one is given up and nobody else is under way."""
    with delayed.batcher.admit(1):
        call = delayed.start(1)
        delayed.gathering()
    assert call.results() == [2]
