"""Finds the best setting within a time limit: all are looked at shortly, the better half again and longer, and so on.

What came out best is then measured in turns with the server's default: on a shared machine the same setting differs by
a tenth from one minute to the next, so that only rounds side by side tell more than the weather.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from service.errors import ModelRejected
from service.tune.running import Open, Running
from service.tune.settings import GOALS, Goal, Setting

CONFIRMING = 0.4
"""Share of the time that is kept for the rounds in turns with the default."""
ROUNDS = 7
LEAST_ROUNDS = 5
LEAST_GAIN = 1.03
"""Below this a gain is noise, whatever the rounds say."""
SLICES = (0.05, 1.0)
"""Shortest and longest seconds of one look."""
FLAT = 1.02
"""A batch twice as large that gives no more than this is no reason for one larger still."""
CLOSE = 0.85
"""Batch sizes that gave less than this share of the best are not looked at again."""
EVEN = 0.95
"""Settings within this share of the best are about as good."""
NEAR = {"throughput": 0.97, "latency": 0.9}
"""The smallest batch within this share of the best rate is taken: large batches make those wait who come alone."""


@dataclass(slots=True)
class Measured:
    """What is known of a setting.

    Attributes:
        buckets: the batch sizes that it can run.
        rates: images a second by batch size, of the last look.
        latency: seconds of the smallest batch alone.
        looks: how often it was looked at.
        failed: why it does not run; empty where it does.
    """

    setting: Setting
    buckets: tuple[int, ...] = ()
    rates: dict[int, float] = field(default_factory=dict)
    latency: float = 0.0
    looks: int = 0
    failed: str = ""

    def batch(self, goal: Goal) -> int:
        """Return the largest batch that it should run."""
        best = max(self.rates.values())
        return min(size for size, rate in self.rates.items() if rate >= NEAR[goal] * best)

    def score(self, goal: Goal) -> float:
        """Return how good it is, more being better."""
        return max(self.rates.values()) if goal == "throughput" else 1 / self.latency


@dataclass(frozen=True, slots=True)
class Choice:
    """What is best for a goal.

    Attributes:
        best: the setting; the default where nothing is better.
        batch: its largest batch.
        gains: how many times as good as the default it was, in each round side by side; none where it is the default.
    """

    best: Measured
    batch: int
    gains: tuple[float, ...] = ()

    @property
    def gain(self) -> float:
        """The median gain; 1 of the default."""
        return statistics.median(self.gains) if self.gains else 1.0

    @property
    def better(self) -> bool:
        """Whether it is better than the default by more than noise: in all rounds but one, and by 3 %."""
        wins = sum(gain > 1 for gain in self.gains)
        return len(self.gains) >= LEAST_ROUNDS and wins >= len(self.gains) - 1 and self.gain >= LEAST_GAIN


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    Attributes:
        measured: of every setting that was looked at, the default first.
        unseen: how many there was no time for.
        tried: what came out best for each goal, whether it is better than the default or not.
        default: the server's default with the batch that it runs when it is busy.
    """

    measured: list[Measured]
    unseen: int
    tried: dict[Goal, Choice]
    default: Choice

    def choice(self, goal: Goal) -> Choice:
        """Return what to take for a goal: the default, unless another is better by more than noise."""
        return self.tried[goal] if self.tried[goal].better else self.default

    def decided(self, goal: Goal) -> bool:
        """Return whether enough was measured to say that the default is best, or that it is not."""
        tried = self.tried[goal]
        return len(tried.gains) >= LEAST_ROUNDS or (tried is self.default and not self.unseen)


class Search:
    """Looks at settings until a time limit.

    Args:
        open_setting: makes a setting run.
        clock: seconds.
        limit: seconds in all; what has begun is not interrupted.
        default_batch: the largest batch that the server runs by default.
        told: what is being done.
    """

    def __init__(
        self,
        open_setting: Open,
        clock: Callable[[], float],
        limit: float,
        *,
        default_batch: int,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._open, self._clock, self._told = open_setting, clock, told
        self._started, self._limit = clock(), limit
        self._default_batch = default_batch

    def run(self, settings: Sequence[Setting]) -> Outcome:
        """Return what is best; the first setting is the server's default.

        Raises:
            ModelRejected: the default does not run.
        """
        measured = [Measured(setting) for setting in settings]
        end = self._started + self._limit * (1 - CONFIRMING)
        self._explore(measured, end)
        default = measured[0]
        if default.failed:
            raise ModelRejected(f"{default.setting}: {default.failed}")
        seen = _running([each for each in measured if each.looks])
        self._halve(seen, end)
        within = [size for size in default.buckets if size <= self._default_batch]
        plain = Choice(default, max(within, default=default.buckets[0]))  # a batch fixed above it is the only one
        tried = {}
        for number, goal in enumerate(GOALS):
            best = _best(seen, goal)
            left = self._started + self._limit - self._clock()
            tried[goal] = self._confirm(plain, best, goal, left / (len(GOALS) - number))
        looked_at = [each for each in measured if each.looks]
        return Outcome(looked_at, len(measured) - len(looked_at), tried, plain)

    def _explore(self, measured: Sequence[Measured], end: float) -> None:
        """Look at each setting once, the default whatever the time."""
        for number, each in enumerate(measured):
            if number and self._clock() >= end:
                return
            self._told(f"looking at {each.setting}")
            share = (end - self._clock()) / (len(measured) - number)
            self._look(each, _slice(share / 16))

    def _halve(self, seen: Sequence[Measured], end: float) -> None:
        """Look at the better half for each goal again, twice as long, then at a quarter, until the time is up."""
        size, seconds = len(seen), 2 * SLICES[0]
        while size > 2:
            size = (size + 1) // 2
            alive = [
                each
                for each in seen
                if any(each in sorted(seen, key=lambda one: -one.score(goal))[:size] for goal in GOALS)
            ]
            for number, each in enumerate(alive):
                if self._clock() >= end:
                    return
                self._told(f"looking again at {each.setting}")
                share = (end - self._clock()) / (len(alive) - number)
                self._look(each, _slice(min(seconds, share / 4)))
            seconds *= 2

    def _look(self, each: Measured, seconds: float) -> None:
        """Measure a setting at the batch sizes that are worth it."""
        each.looks += 1
        try:
            with self._open(each.setting) as running:
                each.buckets = tuple(running.buckets)
                each.latency = running.latency(seconds)
                best = max(each.rates.values(), default=0.0)
                again = [size for size, rate in each.rates.items() if rate >= CLOSE * best]
                each.rates = _rates(running, again or each.buckets, seconds)
        except ModelRejected as error:
            each.failed = str(error)

    def _confirm(self, default: Choice, best: Measured, goal: Goal, seconds: float) -> Choice:
        """Measure what came out best in turns with the default."""
        batch = best.batch(goal)
        same = best is default.best
        if same and (goal == "latency" or batch == default.batch):
            return default
        end = self._clock() + seconds
        gains: list[float] = []
        try:
            with ExitStack() as opened:
                plain = opened.enter_context(self._open(default.best.setting))
                # the default with another batch runs in the same sessions: a GPU may not hold them twice
                other = plain if same else opened.enter_context(self._open(best.setting))
                for number in range(ROUNDS):
                    share = (end - self._clock()) / (ROUNDS - number)
                    if share <= 0:
                        break
                    self._told(f"{goal}, round {number + 1} of {ROUNDS} beside the default: {best.setting}")
                    gains.append(_gain((plain, default.batch), (other, batch), goal, _slice(share / 2), number % 2 > 0))
        except ModelRejected as error:
            if not same:  # without the default nothing would be left to compare with for the next goal
                best.failed = f"beside the default: {error}"
        return Choice(best, batch, tuple(gains))


def _running(seen: Sequence[Measured]) -> list[Measured]:
    return [each for each in seen if not each.failed]


def _best(seen: Sequence[Measured], goal: Goal) -> Measured:
    """Return the best setting; of those about as good the one with the fewest instances, which hold memory each."""
    running = _running(seen)
    most = max(each.score(goal) for each in running)
    good = [each for each in running if each.score(goal) >= EVEN * most]
    return min(good, key=lambda each: (each.setting.instances, -each.score(goal)))


def _rates(running: Running, sizes: Sequence[int], seconds: float) -> dict[int, float]:
    """Return images a second by batch size, from the smallest on, until larger ones bring nothing."""
    rates: dict[int, float] = {}
    best, flat = 0.0, 0
    for batch in sizes:
        rates[batch] = rate = running.rate(batch, seconds)
        flat = 0 if rate > FLAT * best else flat + 1
        best = max(best, rate)
        if flat == 2:
            break
    return rates


def _gain(default: tuple[Running, int], other: tuple[Running, int], goal: Goal, seconds: float, last: bool) -> float:  # noqa: FBT001 - a round's parity
    """Return how many times as good as the default another is; in every other round the default comes last."""
    scores = {}
    for name, (running, batch) in (("other", other), ("default", default))[:: 1 if last else -1]:
        scores[name] = running.rate(batch, seconds) if goal == "throughput" else 1 / running.latency(seconds)
    return scores["other"] / scores["default"]


def _slice(seconds: float) -> float:
    return min(max(seconds, SLICES[0]), SLICES[1])
