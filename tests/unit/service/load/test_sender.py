"""The sender in a time that jumps: what it reports is what arithmetic says."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice, pairwise

import pytest

from service.load.outcome import NOT_SENT, UNANSWERED
from service.load.plan import Arrivals, Load
from service.load.sender import Ended, Sender
from tests.virtual import FakeWire, measure, pass_time

SERVICE = 0.004
STALL = (3.0, 0.5)
PERCENTILES = (50, 90, 95, 99, 99.9, 100)
TOLERANCE = 0.0011
"""Relative; HdrHistogram keeps three significant digits."""


def open_loop(rate: float = 100, arrivals: Arrivals = "constant", **more: float) -> Load:
    """Return an open loop of ten seconds without warm-up."""
    return Load("", "", b"", 1, 10.0, 0.0, rate=rate, arrivals=arrivals, **more)  # type: ignore[arg-type]


def closed_loop(concurrency: int, seconds: float = 10.0) -> Load:
    """Return a closed loop without warm-up."""
    return Load("", "", b"", concurrency, seconds, 0.0)


def computed(dues: Sequence[float]) -> list[float]:
    """Return the latencies of a queue with one server and one stall, by arithmetic, sorted."""
    found, free = [], 0.0
    for due in dues:
        begins = max(due, free)
        if STALL[0] <= begins < sum(STALL):
            begins = sum(STALL)
        free = begins + SERVICE
        found.append(free - due)
    return sorted(found)


def percentile(latencies: Sequence[float], percent: float) -> float:
    """Return a percentile by the nearest rank, as HdrHistogram does."""
    return latencies[max(0, int(percent / 100 * len(latencies) + 0.5) - 1)]


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_open_loop_reports_what_arithmetic_says(arrivals: Arrivals) -> None:
    """With a known service time and a known stall every percentile is the computed one."""
    load = open_loop(arrivals=arrivals)
    outcome = measure(load, FakeWire(SERVICE, STALL))
    moments = load.moments()
    dues = [moment for moment in (next(moments) for _ in range(2000)) if moment < load.seconds]
    expected = computed(dues)
    assert outcome.answered == len(dues)
    for percent in PERCENTILES:
        assert outcome.milliseconds(percent) == pytest.approx(1000 * percentile(expected, percent), rel=TOLERANCE)


def test_open_loop_sees_a_stall() -> None:
    """All calls that were due in a stall of half a second are late by what was left of it: 5 % of ten seconds."""
    outcome = measure(open_loop(), FakeWire(SERVICE, STALL))
    assert outcome.milliseconds(50) == pytest.approx(4, rel=TOLERANCE)
    assert outcome.milliseconds(99) > 400
    assert outcome.milliseconds(100) == pytest.approx(504, rel=TOLERANCE)
    assert outcome.rate == pytest.approx(100)


def test_closed_loop_hides_a_stall() -> None:
    """The same stall is one call of a closed loop with one caller; even 99.9 % of its calls know nothing of it."""
    outcome = measure(closed_loop(1), FakeWire(SERVICE, STALL))
    assert outcome.milliseconds(99.9) == pytest.approx(4, rel=TOLERANCE)
    assert outcome.milliseconds(100) == pytest.approx(504, rel=TOLERANCE)
    assert outcome.answered == pytest.approx(9.5 / SERVICE, abs=2)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_closed_loop_reports_what_arithmetic_says(concurrency: int) -> None:
    """So many callers of a server that takes one at a time wait for each other, and the rate is the server's."""
    outcome = measure(closed_loop(concurrency), FakeWire(SERVICE))
    assert outcome.milliseconds(50) == pytest.approx(4 * concurrency, rel=TOLERANCE)
    assert outcome.rate == pytest.approx(1 / SERVICE, abs=1)


def test_warm_up_is_not_measured() -> None:
    """A stall within the warm-up leaves no trace."""
    outcome = measure(Load("", "", b"", 1, 5.0, 4.0, rate=100, arrivals="constant"), FakeWire(SERVICE, STALL))
    assert outcome.milliseconds(100) == pytest.approx(4, rel=TOLERANCE)
    assert outcome.calls == pytest.approx(500, abs=1)


def test_windows_say_when() -> None:
    """The stall is in the window of the second in which its calls were due, and in no other."""
    outcome = measure(open_loop(), FakeWire(SERVICE, STALL))
    assert [max(window.latencies) > 100_000 for window in outcome.windows] == [second == 3 for second in range(10)]


def test_a_late_server_does_not_stop_the_schedule() -> None:
    """Calls go out when they are due, however late the answers are."""
    wire = FakeWire(0.02)  # takes 50 a second of the 100
    measure(open_loop(), wire)
    assert wire.sent == pytest.approx([number / 100 for number in range(1000)])


def test_throughput_is_what_arrives_in_time() -> None:
    """Beyond the server's capacity the rate is the capacity, not what was offered or answered in the end."""
    outcome = measure(open_loop(), FakeWire(0.02))
    assert outcome.rate == pytest.approx(50, abs=1)


def test_refusals_are_counted_by_status() -> None:
    """What the server refuses is no answer, and is a share of the calls."""
    outcome = measure(open_loop(), FakeWire(0.02, capacity=5))
    assert outcome.failed == {"RESOURCE_EXHAUSTED": outcome.failed.total()}
    assert outcome.refused_share == pytest.approx(0.5, abs=0.02)
    assert outcome.details == {"RESOURCE_EXHAUSTED": "queue full"}


def test_goodput_is_inside_the_deadline() -> None:
    """Answers later than the deadline, counted from when they were due, are not good."""
    outcome = measure(open_loop(deadline=0.1), FakeWire(SERVICE, STALL))
    late = sum(latency > 100_000 for window in outcome.windows for latency in window.latencies)
    assert late > 30
    assert outcome.good == outcome.arrived - late


def test_silence_is_counted() -> None:
    """Calls that are never answered are counted so, and do not hold the load for ever."""
    wire = FakeWire(SERVICE)
    wire.silent = True
    outcome = measure(open_loop(), wire)
    assert outcome.failed == {UNANSWERED: 1000}


def test_interrupted_gives_what_was_measured() -> None:
    """A load that is stopped after five seconds reports those five."""
    wire = FakeWire(SERVICE)
    outcome = measure(open_loop(), wire, lambda sender: asyncio.get_running_loop().call_later(5.0, sender.stop))
    assert outcome.interrupted
    assert outcome.seconds == pytest.approx(5)
    assert outcome.answered == pytest.approx(500, abs=2)
    assert not outcome.failed


def stopped_after(seconds: float) -> Callable[[Sender], object]:
    """Return what stops a sender so many seconds after it began."""
    return lambda sender: asyncio.get_running_loop().call_later(seconds, sender.stop)


def test_interrupt_of_a_stall_counts_what_it_held() -> None:
    """Calls that hang when the load is stopped are unanswered: left out, they made a stall look like a success."""
    outcome = measure(open_loop(), FakeWire(SERVICE, (3.0, 60.0)), stopped_after(5.0))
    assert outcome.answered == 300
    assert outcome.failed[UNANSWERED] == pytest.approx(200, abs=1)
    assert outcome.details == {UNANSWERED: "still under way when interrupted"}


def test_interrupt_ends_the_wait_for_the_last_answers() -> None:
    """A load that is stopped when all is sent ends at once, with those counted that waited for more than a second."""
    wire, later = FakeWire(SERVICE), list[str]()
    wire.silent = True

    def stop(sender: Sender) -> None:
        stopped_after(10.5)(sender)
        asyncio.get_running_loop().call_later(11.0, later.append, "it still waits")

    outcome = measure(open_loop(), wire, stop)
    assert not later
    assert outcome.interrupted
    assert outcome.seconds == pytest.approx(10)
    assert outcome.failed[UNANSWERED] == pytest.approx(950, abs=1)


@pytest.mark.parametrize("after", [5.0, 99.96])
def test_interrupt_ends_the_wait_for_the_next_call(after: float) -> None:
    """A load whose next call is due in a minute and a half ends at once when it is stopped."""
    wire, later = FakeWire(SERVICE), list[str]()

    def stop(sender: Sender) -> None:
        stopped_after(after)(sender)
        asyncio.get_running_loop().call_later(after + 0.1, later.append, "it still waits")

    load = Load("", "", b"", 1, 600.0, 0.0, rate=0.01, arrivals="constant")
    outcome = measure(load, wire, stop)
    assert not later
    assert outcome.interrupted
    assert outcome.seconds == pytest.approx(after)
    assert len(wire.sent) == 1


def test_client_that_is_late_says_so() -> None:
    """Calls that the client could not send before their deadline are counted as not sent."""

    class Busy(FakeWire):
        def send(self, timeout: float | None, ended: Ended) -> None:
            pass_time(0.02)  # the client's own
            super().send(timeout, ended)

    outcome = measure(open_loop(deadline=0.5), Busy(0.0))
    assert outcome.failed[NOT_SENT] > 100
    assert outcome.late_milliseconds > 400


def test_poisson_moments_are_random_and_repeatable() -> None:
    """The same seed gives the same moments; their mean gap is the rate's, and gaps vary as much as they last."""
    moments = open_loop(arrivals="poisson").moments()
    times = [next(moments) for _ in range(20_000)]
    again = open_loop(arrivals="poisson").moments()
    assert [next(again) for _ in range(100)] == times[:100]
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.01, rel=0.03)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.05)


def test_shares_take_turns() -> None:
    """Even arrivals stay even where processes share them."""
    shares = open_loop(100, arrivals="constant").share(4)
    moments = sorted(moment for share in shares for moment in islice(share.moments(), 2))
    assert moments == pytest.approx([number / 100 for number in range(8)])


def test_shares_add_up() -> None:
    """Processes divide callers and rates, and their moments differ."""
    assert [share.concurrency for share in closed_loop(5).share(2)] == [3, 2]
    assert [share.concurrency for share in closed_loop(1).share(2)] == [1]
    shares = open_loop(arrivals="poisson").share(4)
    assert [share.rate for share in shares] == [25] * 4
    assert len({next(share.moments()) for share in shares}) == 4
