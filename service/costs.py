"""What a batch costs, by bucket, kept current; and from it when new work would be done. Standard library only."""

from collections.abc import Mapping
from math import ceil

_WEIGHT = 0.2
"""Weight of the newest batch in the cost of its bucket: five batches forget two thirds of an old load."""
_FORGET_SECONDS = 5.0
"""A bucket that did not run for so long costs what it did at warm-up: after one slow batch everything could be refused,
so that nothing would ever run and be learned from."""
_CAUTION = 1.1
"""Of the wait: predictions are off by some per cent, and under overload all that is admitted just fits."""


class Costs:
    """Seconds that a batch of each bucket takes, as measured at warm-up and learned since.

    Args:
        seconds: by bucket; the largest bucket is the largest batch.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._at_warm_up = dict(seconds)
        self._learned = dict.fromkeys(seconds, 0.0)  # beyond that
        self._when = dict.fromkeys(seconds, 0.0)
        self.max_batch_size = max(seconds)
        # For each size of a batch the bucket that holds it.
        self._buckets = [min(bucket for bucket in seconds if bucket >= size) for size in range(self.max_batch_size + 1)]

    def of(self, size: int, now: float) -> float:
        """Return the seconds that a batch of `size` takes, by the bucket that holds it."""
        bucket = self._buckets[size]
        remembered = 1 - (now - self._when[bucket]) / _FORGET_SECONDS
        seconds = self._at_warm_up[bucket]
        return seconds + self._learned[bucket] * remembered if remembered > 0 else seconds

    def learn(self, size: int, seconds: float, now: float) -> None:
        """Move the cost of a bucket towards what a batch just took."""
        bucket = self._buckets[size]
        known = self.of(size, now)
        self._learned[bucket] = known + _WEIGHT * (seconds - known) - self._at_warm_up[bucket]
        self._when[bucket] = now

    def predict(
        self, count: int, now: float, *, ahead: int, running: float, usual: int, instances: int, prepare: float
    ) -> float:
        """Return the seconds until `count` new items would be answered.

        Args:
            count: of the new request.
            now: on the clock of `learn`.
            ahead: items that wait before it; those of its own batch share that batch with it.
            running: until the first instance is free.
            usual: how many items batches hold now: others join the own batch while it waits.
            instances: how many run batches side by side.
            prepare: until the new items are ready to run; meanwhile what waits before them runs.
        """
        waiting = ahead + count
        full = ceil(waiting / self.max_batch_size) - 1
        before = running + full // instances * self.of(self.max_batch_size, now)
        own = max(waiting - full * self.max_batch_size, usual)
        return _CAUTION * max(before, prepare) + self.of(own, now)
