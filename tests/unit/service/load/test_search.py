"""The search for the highest rate that meets an objective."""

import random
from collections.abc import Callable
from itertools import count

import pytest

from service.load.objective import met, parse
from service.load.outcome import Outcome
from service.load.plan import Arrivals, Load
from service.load.search import find_max, kept_up
from tests.virtual import FakeWire, ParallelWire, measure

CAPACITY = 250.0


@pytest.mark.parametrize("start", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize("slo", ["p99<50ms", "errors<0.1%"])
def test_capacity_of_a_fake_server(start: float, slo: str) -> None:
    """Wherever it starts, the search ends within 5 % of a known capacity, also where latency has no bound."""
    objective = parse(slo)

    def attempt(rate: float) -> bool:
        load = Load("", "", b"", 1, 4.0, 0.0, rate=rate, arrivals="constant")
        outcome = measure(load, FakeWire(1 / CAPACITY))
        return met(objective, outcome) and kept_up(outcome, load)

    found = find_max(attempt, start=start, most=1e5)
    assert found.rate == pytest.approx(CAPACITY, rel=0.05)
    assert found.missed
    assert found.rate < found.missed


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
@pytest.mark.parametrize("rate", [5.0, 50.0])
def test_slow_answers_keep_up(rate: float, arrivals: Arrivals) -> None:
    """A server that answers every call after two seconds keeps up with any rate, though the warm-up is shorter."""
    kept = []
    for seed in range(20):
        load = Load("", "", b"", 1, 10.0, 1.0, rate=rate, arrivals=arrivals, seed=seed)
        kept.append(kept_up(measure(load, ParallelWire(2.0, 10_000)), load))
    assert sum(kept) >= {"constant": 20, "poisson": 18}[arrivals]


def test_capacity_of_slow_answers() -> None:
    """A server of a hundred that takes two seconds a call is found to answer fifty calls a second."""

    def attempt(rate: float) -> bool:
        load = Load("", "", b"", 1, 10.0, 1.0, rate=rate, arrivals="constant")
        return kept_up(measure(load, ParallelWire(2.0, 100)), load)

    assert find_max(attempt, start=4, most=1e5).rate == pytest.approx(50, rel=0.08)


def test_a_queue_of_the_warm_up_is_no_excuse() -> None:
    """At eight times the capacity the queue of the warm-up delays every measured call, and it is seen all the same."""
    load = Load("", "", b"", 1, 4.0, 1.0, rate=8 * CAPACITY, arrivals="constant")
    assert not kept_up(measure(load, FakeWire(1 / CAPACITY)), load)


def test_no_calls_keep_up() -> None:
    """A load in whose seconds no call was due left none unanswered."""
    assert kept_up(Outcome(0.3), Load("", "", b"", 1, 0.3, rate=1))


def test_rounds_that_follow_each_other_keep_up() -> None:
    """Each round of a load ends with calls under way."""
    load = Load("", "", b"", 1, 10.0, 1.0, rate=50, arrivals="constant")
    rounds = Outcome()
    for _ in range(3):
        rounds.follow(measure(load, ParallelWire(2.5, 10_000)))
    assert kept_up(rounds, load)


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


@pytest.mark.parametrize("number", range(8))
def test_an_unlucky_trial_is_not_believed(number: int) -> None:
    """Whichever trial fails for once, the answer is within the tolerance of the limit."""
    trials = count()
    found = find_max(lambda rate: next(trials) != number and rate <= 200, start=30, most=1e5, tolerance=0.02)
    assert 0.96 * 200 <= found.rate <= 200


def test_noise_at_the_limit() -> None:
    """Where one trial in ten is judged wrongly, most searches still end within a tenth of the limit."""
    numbers = random.Random(1)
    near = [
        abs(find_max(lambda rate: (rate <= 200) != (numbers.random() < 0.1), start=30, most=1e5).rate - 200) <= 20
        for _ in range(100)
    ]
    assert sum(near) >= 85


@pytest.mark.parametrize("limit", [0.5, 7.0, 1234.0, 99_999.0])
def test_within_tolerance(limit: float) -> None:
    """The answer is at most the limit and at least the limit less the tolerance, in few trials."""
    found = find_max(until(limit), start=100, most=1e6, tolerance=0.02)
    assert 0.98 * limit - 1e-3 <= found.rate <= limit
    assert found.trials < 30
