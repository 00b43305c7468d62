"""Overload, played through on a fake clock: one thread, no waiting, the same every time."""

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from service.batcher import Batcher
from service.errors import DeadlineExceeded, Overloaded
from service.requests import Pending
from tests.fakes import WAIT

COSTS = {1: 0.004, 2: 0.006, 4: 0.010, 8: 0.018}  # seconds a batch; 444 items a second at best
CAPACITY = 8 / COSTS[8]
DEADLINE = 0.2
SECONDS = 20.0


@dataclass
class Play:
    """Requests that come at random moments, at a mean rate, to a model that takes exactly what it is said to take.

    All of it happens within `run`: the batch that runs lets the clock go on, and what comes meanwhile is admitted.
    """

    rate: float
    cost: float = 1.0  # what a batch takes, times what it is said to take
    prepare: float = 0.0  # seconds of decoding, predicted for each request
    now: float = 0.0
    good: int = 0
    late: int = 0
    refused: int = 0
    expired: int = 0
    under_way: int = 0
    computed: list[float] = field(default_factory=list)
    idle: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        numbers = random.Random(1)
        self.arrivals: list[float] = []
        at = 0.0
        while at < SECONDS:
            at += numbers.expovariate(self.rate)
            self.arrivals.append(at)
        self.arrivals.reverse()
        self.batcher: Batcher[float, None] = Batcher([self.run], costs=COSTS, queue_size=256, clock=lambda: self.now)

    def play(self) -> "Play":
        """Play from the first arrival to the last answer."""
        self.now = self.arrivals[-1]
        while self.arrivals:
            if self.arrive():
                assert self.idle.acquire(timeout=WAIT)
        self.batcher.close()
        return self

    def arrive(self) -> bool:
        """Let the next request come; return whether it was admitted."""
        self.now = at = self.arrivals.pop()
        try:
            with self.batcher.admit(1, deadline=at + DEADLINE, prepare=self.prepare) as ticket:
                self.under_way += 1
                ticket.start([at], self.over)
        except Overloaded:
            self.refused += 1
            return False
        return True

    def run(self, items: Sequence[float]) -> list[None]:
        """Take as long as it takes; meanwhile others come."""
        self.computed += [self.now - at for at in items]
        size = min(bucket for bucket in COSTS if bucket >= len(items))
        ends = self.now + COSTS[size] * self.cost
        while self.arrivals and self.arrivals[-1] <= ends:
            self.arrive()
        self.now = ends
        return [None] * len(items)

    def over(self, pending: Pending[float, None]) -> None:
        """Count what came of a request."""
        try:
            pending.outcome()
        except DeadlineExceeded:
            self.expired += 1
        else:
            in_time = self.now <= pending.items[0] + DEADLINE
            self.good += in_time
            self.late += not in_time
        self.under_way -= 1
        if not self.under_way:
            self.idle.release()


@pytest.fixture(scope="module")
def peak() -> float:
    """Return the most that are answered in time, over loads up to the capacity."""
    return max(Play(CAPACITY * share).play().good for share in (0.8, 0.9, 1.0))


@pytest.mark.parametrize("prepare", [0.0, 0.02], ids=["raw pixels", "pictures to decode"])
@pytest.mark.parametrize("times", [1.5, 5.0, 20.0])
def test_goodput_stays_at_its_peak(peak: float, times: float, prepare: float) -> None:
    """Far beyond capacity at least nine tenths of the peak are still answered in time, and the rest is refused."""
    play = Play(CAPACITY * times, prepare=prepare).play()
    assert play.good >= 0.9 * peak
    assert play.refused > 0


@pytest.mark.parametrize("cost", [1.0, 1.3, 0.7])
def test_no_answer_is_late(cost: float) -> None:
    """Also where a batch takes longer or shorter than at warm-up, admission learns it: hardly an answer is late."""
    play = Play(CAPACITY * 5, cost=cost).play()
    assert play.late + play.expired <= play.good / 1000 + 8  # the first batches were admitted on the old cost


def test_nothing_is_computed_after_its_deadline() -> None:
    """No request is computed whose deadline has passed, however wrong the predicted cost is."""
    play = Play(CAPACITY * 5, cost=4.0).play()
    assert play.good > 0
    assert max(play.computed) < DEADLINE


def test_decoding_counts() -> None:
    """A request whose decoding alone is predicted to take the time that is left is refused."""
    assert Play(10.0, prepare=DEADLINE).play().refused > 100
