"""On which link a call is tried, and again; by a clock that stands still."""

import pytest

from service.client.attempts import LONGEST_PAUSE, Attempts, Link, Pool
from service.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable


def attempts(links: int, seconds: float = 10.0) -> Attempts[None]:
    """Return the attempts of one call on so many links, at time 0."""
    return Attempts(Pool([Link(str(number), None) for number in range(links)]), seconds, lambda: 0.0)


def test_the_next_link_is_tried_at_once() -> None:
    """A call that finds its server gone goes to each other link without waiting, and then waits."""
    call = attempts(3)
    seen = []
    for _ in range(3):
        assert call.wait == 0
        seen.append(call.link.address)
        call.failed(Unavailable("gone"))
    assert sorted(seen) == ["0", "1", "2"]
    assert call.wait > 0


def test_refused_calls_wait_as_long_as_the_server_says() -> None:
    """A refusal is repeated after its push-back, or not at all where it has none or the deadline is sooner."""
    call = attempts(1)
    call.failed(Overloaded("full", reason="queue_full", retry_after=2.0))
    assert call.wait == 2.0
    for seconds, in_time in ((1.0, True), (10.0, False)):
        with pytest.raises(Overloaded):
            attempts(1, seconds).failed(Overloaded("full", reason="queue_full", retry_after=2.0, in_time=in_time))


def test_calls_that_fail_together_count_once() -> None:
    """Of calls on a link that were under way when the first of them failed, one counts; a later one counts again."""
    link = Link("0", None)
    link.failed(0.0, 1.0)
    link.failed(0.0, 1.5)
    assert link.failures == 1
    link.failed(2.0, 2.5)
    assert link.failures == 2


def test_why_there_was_no_answer_in_time() -> None:
    """A call whose repeat is not answered fails with its deadline and the failure before."""
    call = attempts(1)
    call.failed(Unavailable("gone"))
    with pytest.raises(DeadlineExceeded, match="no answer within 10 s; before that gone"):
        call.failed(DeadlineExceeded("Deadline Exceeded"))


def test_a_repeat_that_had_hardly_a_chance() -> None:
    """A call that was repeated just before its deadline fails with the failure before."""
    call = attempts(1, LONGEST_PAUSE / 2)
    call.failed(Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        call.failed(DeadlineExceeded("Deadline Exceeded"))


def test_the_callers_fault_is_not_repeated() -> None:
    """What is wrong with the request is raised at once."""
    with pytest.raises(InvalidInput):
        attempts(3).failed(InvalidInput("images[0]", "is no picture"))
