"""The search for the highest rate that meets an objective."""

from collections.abc import Callable

import pytest

from service.load.objective import met, parse
from service.load.plan import Load
from service.load.search import KEPT_UP, find_max
from tests.virtual import FakeWire, measure

CAPACITY = 250.0


def attempt(rate: float) -> bool:
    """Offer a rate to a fake server that takes 250 a second, and judge."""
    load = Load("", "", b"", 1, 10.0, 0.0, rate=rate, arrivals="constant")
    outcome = measure(load, FakeWire(1 / CAPACITY))
    return met(parse("p99<50ms"), outcome) and outcome.rate >= KEPT_UP * outcome.calls / outcome.seconds


@pytest.mark.parametrize("start", [1.0, 100.0, 3000.0])
def test_capacity_of_a_fake_server(start: float) -> None:
    """Wherever it starts, the search ends within 5 % of a server's known capacity."""
    found = find_max(attempt, start=start, most=1e5)
    assert found.rate == pytest.approx(CAPACITY, rel=0.05)
    assert found.missed
    assert found.rate < found.missed


def until(limit: float) -> Callable[[float], bool]:
    """Return what meets the objective up to a limit."""
    return lambda rate: rate <= limit


def test_never_met() -> None:
    """Where no rate meets the objective the answer is 0."""
    assert find_max(lambda _: False, start=100, most=1e5).rate == 0


def test_most() -> None:
    """No rate beyond the highest that may be tried is tried."""
    tried = []

    def always(rate: float) -> bool:
        tried.append(rate)
        return True

    found = find_max(always, start=100, most=1000)
    assert (found.rate, found.missed) == (1000, None)
    assert max(tried) == 1000


def test_a_lucky_trial_is_not_believed() -> None:
    """A rate that met the objective once and not again is not the answer."""
    lucky = [True]

    def attempts(rate: float) -> bool:
        if 200 < rate < 230 and lucky:
            return lucky.pop()
        return rate <= 200

    assert find_max(attempts, start=100, most=1e5).rate <= 200


@pytest.mark.parametrize("limit", [0.5, 7.0, 1234.0, 99_999.0])
def test_within_tolerance(limit: float) -> None:
    """The answer is at most the limit and at least the limit less the tolerance, in few trials."""
    found = find_max(until(limit), start=100, most=1e6, tolerance=0.02)
    assert 0.98 * limit - 1e-3 <= found.rate <= limit
    assert found.trials < 30
