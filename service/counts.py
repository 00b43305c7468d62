"""What was counted of one served version, as plain numbers. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class Duration:
    """How often something happened, and how many seconds it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: Sequence[float]) -> None:
        """Count more of it."""
        self.count += len(seconds)
        self.seconds += sum(seconds)


@dataclass(slots=True)
class Counts:
    """All that was counted of one version since the server started.

    Attributes:
        success: calls that were answered, from arrival to answer.
        fail: calls that were not.
        decode: of answered calls, as are `queue` and `inference`; see Model.
        batches: running batches, by the pictures in them.
        last_batch: when the last batch ended, in seconds since 1970; 0 where there was none.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    decode: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    inference: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)
    last_batch: float = 0.0

    def batch(self, size: int, seconds: Sequence[float], ended: float) -> None:
        """Count batches of `size` pictures that took so many seconds each, and had ended at `ended`."""
        self.batches.setdefault(size, Duration()).add(seconds)
        self.last_batch = max(self.last_batch, ended)

    def snapshot(self) -> "Counts":
        """Return a copy, whoever counts meanwhile: to copy a dict is one step for Python, to go through it is not."""
        return together([replace(self, batches=self.batches.copy())])


def together(parts: Sequence[Counts]) -> Counts:
    """Return what several processes counted of the same version."""
    whole = Counts()
    for part in parts:
        for name in ("success", "fail", "decode", "queue", "inference"):
            _add(getattr(whole, name), getattr(part, name))
        for size, runs in part.batches.items():
            _add(whole.batches.setdefault(size, Duration()), runs)
        whole.last_batch = max(whole.last_batch, part.last_batch)
    return whole


def _add(duration: Duration, more: Duration) -> None:
    duration.count += more.count
    duration.seconds += more.seconds
