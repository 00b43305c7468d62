"""Objectives: how they are written, and when they are met."""

from array import array
from collections import Counter

import pytest

from service.errors import SetupError
from service.load.objective import met, parse, uncounted, verdict
from service.load.outcome import Outcome, Window


def outcome(*milliseconds: float, failed: int = 0) -> Outcome:
    """Return one second with these latencies, and so many refusals."""
    latencies = array("q", [round(value * 1000) for value in milliseconds])
    window = Window(latencies, Counter({"RESOURCE_EXHAUSTED": failed} if failed else {}))
    return Outcome(seconds=1.0, windows=[window], arrived=len(latencies), good=len(latencies))


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("p99<50ms", True),
        ("p50<2ms", False),
        ("p50<2001us", True),
        ("max<0.0041s", True),
        ("max<4ms", False),
        ("mean<2.6ms", True),
        ("errors<0.1%", False),
        ("errors<30%", True),
        ("refused<20%", False),
        ("rate>3", True),
        ("goodput>4/s", False),
        ("p99<50ms, errors<30%", True),
        ("p99<50ms,errors<1%", False),
    ],
)
def test_terms(text: str, is_met: bool) -> None:  # noqa: FBT001
    """Answers after 1, 2, 3 and 4 ms and one refusal meet what they meet."""
    assert met(parse(text), outcome(1, 2, 3, 4, failed=1)) is is_met


def test_nothing_answered_meets_nothing() -> None:
    """A server that answers nothing has no latency, and meets no bound on it."""
    assert not met(parse("p99<50ms"), outcome(failed=3))


def test_verdict_names_values() -> None:
    """The verdict says what was met, what was not, and the values."""
    line = verdict(parse("p99<50ms,errors<0.1%"), outcome(1, 2, 3, 4, failed=1))
    assert line == "objective MISSED: p99<50ms is met (4.001ms), errors<0.1% is missed (20%)"


def test_verdict_on_nothing() -> None:
    """Where nothing was answered the verdict names no latency."""
    line = verdict(parse("p99<50ms,errors<0.1%"), outcome(failed=3))
    assert line == "objective MISSED: p99<50ms is missed (nothing was answered), errors<0.1% is missed (100%)"


@pytest.mark.parametrize(
    ("text", "failed", "said"),
    [("p99<50ms", 1, "1 of 5 calls failed"), ("p99<50ms,errors<30%", 1, ""), ("p99<50ms", 0, ""), ("rate>1", 1, "")],
)
def test_failed_calls_that_no_term_bounds(text: str, failed: int, said: str) -> None:
    """Calls that failed are told where latency has a bound and errors have none."""
    line = uncounted(parse(text), outcome(1, 2, 3, 4, failed=failed))
    assert said in line
    assert bool(line) is bool(said)


@pytest.mark.parametrize("text", ["", "p99", "p99<50", "p99>50ms", "rate<5", "errors<5ms", "speed<1ms", "p99<50ms;"])
def test_unreadable(text: str) -> None:
    """What cannot be read is refused with an example."""
    with pytest.raises(SetupError, match="for example p99<50ms"):
        parse(text)
