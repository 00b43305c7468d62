"""What a batch costs, by bucket, kept current; and from it when new work would be done. Standard library only."""

from collections.abc import Mapping
from math import ceil

_WEIGHT = 0.2
"""Weight of the newest batch in the cost of its bucket: five batches forget two thirds of an old load."""


class Costs:
    """Seconds that a batch of each bucket takes, as measured at warm-up and learned since.

    Args:
        seconds: by bucket; the largest bucket is the largest batch.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._seconds = dict(seconds)
        self.max_batch_size = max(seconds)
        # For each size of a batch the bucket that holds it.
        self._buckets = [min(bucket for bucket in seconds if bucket >= size) for size in range(self.max_batch_size + 1)]

    def of(self, size: int) -> float:
        """Return the seconds that a batch of `size` takes, by the bucket that holds it."""
        return self._seconds[self._buckets[size]]

    def learn(self, size: int, seconds: float) -> None:
        """Move the cost of a bucket towards what a batch just took."""
        bucket = self._buckets[size]
        self._seconds[bucket] += _WEIGHT * (seconds - self._seconds[bucket])

    def predict(self, count: int, *, ahead: int, running: float, instances: int, prepare: float) -> float:
        """Return the seconds until `count` new items would be answered.

        Args:
            count: of the new request.
            ahead: items that wait before it; those of its own batch share that batch with it.
            running: until the first instance is free.
            instances: how many run batches side by side.
            prepare: until the new items are ready to run; meanwhile what waits before them runs.
        """
        waiting = ahead + count
        full = ceil(waiting / self.max_batch_size) - 1
        before = running + full // instances * self.of(self.max_batch_size)
        return max(before, prepare) + self.of(waiting - full * self.max_batch_size)
