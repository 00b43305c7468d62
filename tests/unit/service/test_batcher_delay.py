import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.batcher import Batcher
from service.errors import Unavailable
from tests.fakes import WAIT

FOREVER = 3600.0
SHORT = 0.02


class Delayed:
    """A batcher with a queue delay, batches of at most two, and a list of what ran."""

    def __init__(self, queue_delay: float, *, direct: bool) -> None:
        self.batches: list[list[int]] = []
        self.batcher: Batcher[int, int] = Batcher(
            self._run, costs={1: 0.0, 2: 0.0}, queue_size=8, queue_delay=queue_delay, direct=direct
        )

    def _run(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        return [2 * item for item in items]


@pytest.fixture(params=[False, True], ids=["thread", "direct"])
def direct(request: pytest.FixtureRequest) -> bool:
    """Return whether callers may run their own batches."""
    return bool(request.param)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    """Return threads for callers."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_alone_never_waits(*, direct: bool) -> None:
    """A request that is the only one in flight runs at once, however long the queue delay."""
    delayed = Delayed(FOREVER, direct=direct)
    with delayed.batcher.admit(1) as ticket:
        assert ticket.submit([1]).results == [2]
    delayed.batcher.close()


def test_waits_for_others(callers: ThreadPoolExecutor, *, direct: bool) -> None:
    """A request waits for another one that was admitted, and both share a batch as soon as it is full."""
    delayed = Delayed(FOREVER, direct=direct)
    with delayed.batcher.admit(1) as first, delayed.batcher.admit(1) as second, delayed.batcher.admit(1):
        answers = [callers.submit(ticket.submit, [number]) for number, ticket in enumerate((first, second))]
        assert [answer.result(WAIT).results for answer in answers] == [[0], [2]]
    assert [sorted(batch) for batch in delayed.batches] == [[0, 1]]
    delayed.batcher.close()


def test_delay_passes(callers: ThreadPoolExecutor, *, direct: bool) -> None:
    """When the queue delay has passed, a request runs without those that did not come."""
    delayed = Delayed(SHORT, direct=direct)
    with delayed.batcher.admit(1) as first, delayed.batcher.admit(1):
        outcome = callers.submit(first.submit, [3]).result(WAIT)
    assert outcome.results == [6]
    assert outcome.queue_seconds >= SHORT
    assert delayed.batches == [[3]]
    delayed.batcher.close()


def test_many_callers_with_a_delay(callers: ThreadPoolExecutor, *, direct: bool) -> None:
    """Under a short delay every one of a thousand calls gets its own result, and nothing hangs."""
    delayed = Delayed(0.0005, direct=direct)

    def ask(number: int) -> int:
        with delayed.batcher.admit(1) as ticket:
            return ticket.submit([number]).results[0]

    assert list(callers.map(ask, range(1000), timeout=WAIT)) == [2 * number for number in range(1000)]
    assert sum(len(batch) for batch in delayed.batches) == 1000
    delayed.batcher.close()


def test_close_ends_the_wait(callers: ThreadPoolExecutor, *, direct: bool) -> None:
    """Closing answers a request that waits for others with Unavailable, and returns within the delay."""
    delayed, queued = Delayed(0.2, direct=direct), threading.Event()
    with delayed.batcher.admit(1) as first, delayed.batcher.admit(1):

        def watch(_: Callable[[], None]) -> bool:
            queued.set()
            return True

        answer = callers.submit(first.submit, [1], watch)
        assert queued.wait(WAIT)
        delayed.batcher.close()
        with pytest.raises(Unavailable):
            answer.result(WAIT)
    assert delayed.batches == []
