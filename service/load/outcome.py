"""What came of a load: latencies, failures by status, the client's own cost."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from service.errors import SetupError

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LONGEST = 3_600_000_000
"""Microseconds; longer latencies count as this."""
_DIGITS = 3

NOT_SENT = "NOT_SENT"
"""Status of a call whose deadline passed before the client came to send it."""
UNANSWERED = "UNANSWERED"
"""Status of a call that was still under way when the client stopped waiting."""
REFUSED = "RESOURCE_EXHAUSTED"


def require() -> None:
    """Raise SetupError unless hdrhistogram is there: better before the load than after it."""
    histogram([])


def histogram(latencies: Iterable["array[int]"]) -> "HdrHistogram":
    """Return the HdrHistogram of latencies in microseconds, three significant digits."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        raise SetupError(
            "load testing needs the package hdrhistogram: `pip install '.[bench]'` in a clone of Saccade"
        ) from None
    made = HdrHistogram(1, LONGEST, _DIGITS)
    for value, times in sorted(Counter(value for part in latencies for value in part).items()):
        made.record_value(min(max(value, 1), LONGEST), times)
    return made


@dataclass(slots=True)
class Window:
    """The calls that were due in one second: microseconds of those answered, the others by status."""

    latencies: "array[int]" = field(default_factory=lambda: array("q"))
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Window") -> None:
        """Take another process's calls of the same second in."""
        self.latencies.extend(other.latencies)
        self.failed.update(other.failed)


@dataclass
class Outcome:
    """What came of a load.

    The calls that were due in the measured seconds are the population of latencies and failures, whenever they ended;
    what arrived in the measured seconds makes the rates.

    Attributes:
        seconds: that were measured.
        windows: one for each second.
        arrived: answers that came in the measured seconds.
        good: those of them that came before their deadline.
        images: pictures a call.
        cpu_seconds: of the client's processes.
        busiest: CPU seconds a second of the busiest of them.
        late: microseconds that calls were sent after they were due, open loop only.
        details: of each status the first message.
        interrupted: whether it was stopped before its time.
        shortest: microseconds of the quickest answer, in the warm-up too; None if there was none.
    """

    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    arrived: int = 0
    good: int = 0
    images: int = 1
    cpu_seconds: float = 0.0
    busiest: float = 0.0
    late: "array[int]" = field(default_factory=lambda: array("q"))
    details: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    shortest: int | None = None

    @property
    def answered(self) -> int:
        """How many of the calls were answered."""
        return sum(len(window.latencies) for window in self.windows)

    @property
    def failed(self) -> Counter[str]:
        """The calls that were not, by status."""
        return sum((window.failed for window in self.windows), Counter())

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return self.answered + self.failed.total()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.arrived / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float:
        """Answers a second that came before their deadline."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def error_share(self) -> float:
        """The share of calls that were not answered, refusals included; 0 to 1."""
        return self.failed.total() / self.calls if self.calls else 0.0

    @property
    def refused_share(self) -> float:
        """The share of calls that were refused, 0 to 1."""
        return self.failed[REFUSED] / self.calls if self.calls else 0.0

    @cached_property
    def latencies(self) -> "HdrHistogram":
        """The answered calls' latencies in microseconds. Made once, so ask when all is there."""
        return histogram(window.latencies for window in self.windows)

    def milliseconds(self, percentile: float) -> float:
        """Return the latency that so many percent of the answered calls did not exceed; 0 if none was answered."""
        return float(self.latencies.get_value_at_percentile(percentile)) / 1000 if self.answered else 0.0

    @property
    def mean_milliseconds(self) -> float:
        """The mean latency of the answered calls."""
        return sum(sum(window.latencies) for window in self.windows) / self.answered / 1000 if self.answered else 0.0

    @cached_property
    def late_milliseconds(self) -> float:
        """How late 99 % of the calls were sent at most."""
        return float(histogram([self.late]).get_value_at_percentile(99)) / 1000 if self.late else 0.0

    def quickest(self, latency: int | None) -> None:
        """Note how long an answer took, in microseconds."""
        if latency is not None and (self.shortest is None or latency < self.shortest):
            self.shortest = latency

    def follow(self, other: "Outcome") -> None:
        """Take in what came of the same load afterwards."""
        cpu = self.busiest * self.seconds + other.busiest * other.seconds
        self.windows.extend(other.windows)
        self.seconds += other.seconds
        self.arrived += other.arrived
        self.good += other.good
        self.images = other.images
        self.cpu_seconds += other.cpu_seconds
        self.busiest = cpu / self.seconds if self.seconds else 0.0
        self.late.extend(other.late)
        self.details = other.details | self.details
        self.interrupted |= other.interrupted
        self.quickest(other.shortest)

    def add(self, other: "Outcome") -> None:
        """Take in what came of another process's share of the same load."""
        for number, window in enumerate(other.windows):
            if number == len(self.windows):
                self.windows.append(Window())
            self.windows[number].add(window)
        self.seconds = max(self.seconds, other.seconds)
        self.arrived += other.arrived
        self.good += other.good
        self.images = other.images
        self.cpu_seconds += other.cpu_seconds
        self.busiest = max(self.busiest, other.busiest)
        self.late.extend(other.late)
        self.details = other.details | self.details
        self.interrupted |= other.interrupted
        self.quickest(other.shortest)
