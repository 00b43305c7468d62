"""What a batch costs, by bucket, kept current; and from it when new work would be done. Standard library only."""

from collections.abc import Mapping
from math import ceil, inf

_WEIGHT = 0.2
"""Weight of the newest batch in the cost of its bucket: five batches forget two thirds of an old load."""
FORGET_SECONDS = 5.0
"""A bucket that did not run for so long costs what it did at warm-up: after one slow batch everything could be refused,
so that nothing would ever run and be learned from."""


class Costs:
    """Seconds that a batch of each bucket takes, as measured at warm-up and learned since.

    Args:
        seconds: by bucket; the largest bucket is the largest batch.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._at_warm_up = dict(sorted(seconds.items()))
        self._learned = dict.fromkeys(seconds, 0.0)  # beyond that
        self._when = dict.fromkeys(seconds, -inf)
        self.max_batch_size = max(seconds)
        # For each size of a batch the bucket that holds it.
        self._buckets = [min(bucket for bucket in seconds if bucket >= size) for size in range(self.max_batch_size + 1)]

    def of(self, size: int, now: float) -> float:
        """Return the seconds that a batch of `size` takes, by the bucket that holds it."""
        bucket = self._buckets[size]
        remembered = 1 - (now - self._when[bucket]) / FORGET_SECONDS
        seconds = self._at_warm_up[bucket]
        return seconds + self._learned[bucket] * remembered if remembered > 0 else seconds

    def least(self, size: int, now: float) -> float:
        """Return the seconds that a batch of `size` takes, now or at warm-up, whichever is less."""
        return min(self._at_warm_up[self._buckets[size]], self.of(size, now))

    def largest_within(self, seconds: float, now: float) -> int:
        """Return the largest bucket whose batches take at most so many seconds; the smallest if none does.

        What a batch took at warm-up counts, or takes now, whichever is less: on a machine that is busy with other work
        all take longer, and smaller ones make it worse (batches of 1 instead of 16: 400 us a message instead of 290).
        And none counts more than two of the bucket below: warm-up measures once, perhaps just while the machine was
        busy, and what never runs is never learned of.
        """
        largest, below = self._buckets[0], inf
        for bucket, at_warm_up in self._at_warm_up.items():
            below = min(at_warm_up, self.of(bucket, now), 2 * below)
            if below > seconds:
                break
            largest = bucket
        return largest

    def grow(self, size: int, more: int, now: float) -> bool:
        """Return whether a batch of `size` takes longer with more items."""
        return self.of(size + more, now) > self.of(size, now)

    def learn(self, size: int, seconds: float, now: float) -> None:
        """Move the cost of a bucket towards what a batch just took.

        One that took less than half of it at warm-up says that warm-up was disturbed: half a bucket takes no less.
        """
        bucket = self._buckets[size]
        known = self.of(size, now)
        if 2 * seconds < self._at_warm_up[bucket]:
            self._at_warm_up[bucket] = 2 * seconds
            known = min(known, 2 * seconds)
        self._learned[bucket] = known + _WEIGHT * (seconds - known) - self._at_warm_up[bucket]
        self._when[bucket] = now

    def predict(
        self,
        count: int,
        now: float,
        *,
        ahead: int = 0,
        running: float = 0.0,
        usual: int = 0,
        instances: int = 1,
        prepare: float = 0.0,
    ) -> float:
        """Return the seconds until `count` new items would be answered.

        Args:
            count: of the new request.
            now: on the clock of `learn`.
            ahead: items that wait before it; the last of them share a batch with it.
            running: until the first instance is free.
            usual: items that batches hold now: while the request waits, others join its last batch.
            instances: how many run batches side by side.
            prepare: until the new items are ready to run; meanwhile what waits before them runs.
        """
        most = self.max_batch_size
        before = running + ahead // most // instances * self.of(most, now)
        own = ahead % most + count
        full = ceil(own / most) - 1
        last = self.of(max(own - full * most, usual), now)
        waves = full // instances
        if full % instances:  # the last batch has a full one beside it
            last = self.of(most, now)
        return max(before, prepare) + waves * self.of(most, now) + last
